--[[
  end_ring: a ring has ended; forget its positions and account, now or with the last of its jobs. Its term stays a day.

  One script, because a sender may complete that last job between the question and the answer.

  KEYS[1] ring      HASH    positions and account of the ring; gains the field ended, loses all but term

  ARGV[1] keep_ms   integer how long it is kept at the most, milliseconds

  Returns   1 when it is forgotten, 0 when events of it are still queued or failed
  Promises  a day after the events of a ring that ended well are delivered nothing of it is left in Redis; until then
            a call that arrives late adds nothing to it
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
