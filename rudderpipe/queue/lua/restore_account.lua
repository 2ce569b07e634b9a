--[[
  restore_account: add the events of a ring that Redis has lost to the account again.

  One script, because events that a flusher adds between two commands would look lost.

  KEYS[1] ring      HASH    offsets and account of the ring; gains the missing events
  KEYS[2] account   HASH    events over all rings; gains those of the missing events that it lacks too
  KEYS[3] added     HASH    epoch of a ring -> its events that the account has counted; gains those too

  ARGV[1] handed    integer how many events of the ring Redis had accepted, read before this call
  ARGV[2] ended     integer how many of them are known to be finished without having failed
  ARGV[3] since     integer how many of them were handed over after `ended` was read
  ARGV[4] keep_ms   integer how long the ring's hash is kept after its last use, milliseconds

  Returns   how many events were missing; nothing is changed when that is 0
  Promises  missing events that are known to be finished count as delivered. The others count as queued until no job
            waits, is active or delayed, because their jobs may still exist; count_jobs counts them as lost then
  Costs     O(1)
  Same as   nothing in Bull
]]
local ring, account, added = KEYS[1], KEYS[2], KEYS[3]
local handed, ended, since, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include: count

local function of(key, field)
  return tonumber(redis.call("HGET", key, field) or "0") or 0
end
local over = of(ring, "delivered") + of(ring, "removed") + of(ring, "elsewhere")
local present = over + of(ring, "queued") + of(ring, "failed") + of(ring, "lost")
local of_ring = math.max(present, of(ring, "added"))
local missing = tonumber(handed) - of_ring
if missing <= 0 then
  return 0
end
local restored = math.max(0, math.min(missing, tonumber(ended) - math.max(0, over - tonumber(since))))
-- Redis may have lost the ring's hash alone, which expires and may be evicted. The account has counted its events then.
local epoch = string.sub(ring, -16)
local counted = tonumber(redis.call("HGET", added, epoch) or of_ring) or 0
local lacks = math.max(0, math.min(missing, tonumber(handed) - counted))
for key, lost in pairs({[ring] = missing, [account] = lacks}) do
  local delivered = math.min(restored, lost)
  count(key, "delivered", delivered)
  count(key, "queued", lost - delivered)
  count(key, "unsure", lost - delivered)
  count(key, "added", lost)
end
redis.call("HSET", ring, "added", string.format("%.0f", of_ring + missing))
redis.call("HSET", added, epoch, string.format("%.0f", counted + lacks))
redis.call("PEXPIRE", ring, keep_ms)
return missing
