--[[
  end_ring: delete the offsets and the account of a ring that has ended, now or with its last job. A tombstone stays.

  One script, because a sender may complete the last job between the check and the deletion.

  KEYS[1] ring      HASH    offsets and account of the ring; gains the field ended; all others but term and added go

  ARGV[1] keep_ms   integer how long the hash is kept at most, milliseconds

  Returns   1 when the hash was reduced to a tombstone, 0 when events of the ring are still queued or failed
  Promises  one day after all events of an ended ring were delivered, Redis has nothing of the ring. Until then, a
            call that arrives late adds nothing to the ring
  Costs     O(blocks)
  Same as   nothing in Bull
]]
local ring = KEYS[1]
local keep_ms = ARGV[1]
-- include: leave_tombstone

local queued = tonumber(redis.call("HGET", ring, "queued") or "0") or 0
local failed = tonumber(redis.call("HGET", ring, "failed") or "0") or 0
if queued <= 0 and failed <= 0 then
  leave_tombstone(ring)
  return 1
end
redis.call("HSET", ring, "ended", "1")
redis.call("PEXPIRE", ring, keep_ms)
return 0
