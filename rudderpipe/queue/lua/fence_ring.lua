--[[
  fence_ring: make every call of an earlier term fail, and return how many events of each tenure were added.

  One script, because a late call between the two would add events after they were counted.

  KEYS[1] ring      HASH*   tenure of a block -> events added, and term; gains the term; created when missing

  ARGV[1] keep_ms   integer how long the ring's hash is kept after its last use, milliseconds
  ARGV[2] freed     msgpack list of tenures whose blocks are free again, so that their offsets may be deleted
  ARGV[3] term      integer higher than the term of every call whose answer is unknown, by any flusher of the ring

  Returns   {1, tenure, events, ...}. {false, 0, term}, and nothing is changed, for a late call of an earlier term.
            The error RINGENDED when the ring has ended
  Promises  what it returns grows only by calls of this term or a later one. It always writes, so that a WAIT behind
            it waits for everything that was written before
  Costs     O(blocks)
  Same as   nothing in Bull
]]
local ring = KEYS[1]
local keep_ms, freed, term = ARGV[1], ARGV[2], ARGV[3]
-- include: late_for

local late = late_for(ring, term)
if late then
  return late
end
for _, sequence in ipairs(cmsgpack.unpack(freed)) do
  redis.call("HDEL", ring, sequence)
end
redis.call("HSET", ring, "term", term)
redis.call("PEXPIRE", ring, keep_ms)
local fields, known = redis.call("HGETALL", ring), {1}
for number = 1, #fields, 2 do
  if string.match(fields[number], "^%d+$") then
    known[#known + 1] = tonumber(fields[number])
    known[#known + 1] = tonumber(fields[number + 1]) or 0
  end
end
return known
