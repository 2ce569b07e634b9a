--[[
  restore_account: Redis has fewer events of a ring than it was given; write down what became of the others.

  One script, because a flusher that adds events between two looks would make them look lost.

  KEYS[1] ring      HASH    positions and account of the ring; gains what is missing of it
  KEYS[2] account   HASH    events over all rings; gains as many of them as it lacks too

  ARGV[1] handed    integer events of the ring that Redis had taken, read before this call
  ARGV[2] ended     integer how many of them are known to have come to an end other than by failing
  ARGV[3] since     integer how many of them were handed over after that was known
  ARGV[4] keep_ms   integer how long the ring's hash outlives its last use, milliseconds

  Returns   how many were missing; nothing is changed when that is 0
  Promises  what is known to have ended is delivered. The others are queued until no job waits, is active or delayed,
            as their jobs may still be there; count_jobs says then that they are lost
  Costs     O(1)
  Same as   nothing in Bull
]]
local ring, account = KEYS[1], KEYS[2]
local handed, ended, since, keep_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include: count

local function of(key, field)
  return tonumber(redis.call("HGET", key, field) or "0") or 0
end
local over = of(ring, "delivered") + of(ring, "removed") + of(ring, "elsewhere")
local present = over + of(ring, "queued") + of(ring, "failed") + of(ring, "lost")
local added = math.max(present, of(ring, "added"))
local missing = tonumber(handed) - added
if missing <= 0 then
  return 0
end
local restored = math.max(0, math.min(missing, tonumber(ended) - math.max(0, over - tonumber(since))))
for _, key in ipairs({ring, account}) do
  local lacks = math.max(0, math.min(missing, tonumber(handed) - of(key, "added")))
  local delivered = math.min(restored, lacks)
  count(key, "delivered", delivered)
  count(key, "queued", lacks - delivered)
  count(key, "unsure", lacks - delivered)
  count(key, "added", lacks)
end
redis.call("HSET", ring, "added", string.format("%.0f", added + missing))
redis.call("PEXPIRE", ring, keep_ms)
return missing
