--[[
  fence_ring: make every call of an earlier term fail, and return how many events of each tenure were added.

  One script, because a late call between the two would add events after they were counted.

  KEYS[1] ring      HASH*   tenure of a block -> events added, and term; gains the term and the flusher; created when
                            missing
  KEYS[2] rings     ZSET*   epochs of the rings that have such a hash, by their last fence; gains the ring
  KEYS[3] added     HASH*   epoch of a ring -> its events that the account has counted; loses rings without a hash

  ARGV[1] keep_ms   integer how long the ring's hash is kept after its last use, milliseconds
  ARGV[2] freed     msgpack list of tenures whose blocks are free again, so that their offsets may be deleted
  ARGV[3] term      integer higher than the term of every call whose answer is unknown, by any flusher of the ring
  ARGV[4] now_ms    integer milliseconds since 1970, the flusher's clock
  ARGV[5] flusher   string  "<protocol> <host>" of the flusher: what it knows of a queue's state, and where it runs

  Returns   {1, tenure, events, ...}. {false, 0, term}, and nothing is changed, for a late call of an earlier term.
            The error RINGENDED when the ring has ended
  Promises  what it returns grows only by calls of this term or a later one. It always writes, so that a WAIT behind
            it waits for everything that was written before
  Costs     O(blocks), plus the rings that nothing was heard of for keep_ms
  Same as   nothing in Bull
]]
local ring, rings, added = KEYS[1], KEYS[2], KEYS[3]
local keep_ms, freed, term, now_ms, flusher = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include: late_for

redis.call("ZCARD", rings) -- read here: a key of another type stops the script before its first write
redis.call("HLEN", added)
local late = late_for(ring, term)
if late then
  return late
end
for _, sequence in ipairs(cmsgpack.unpack(freed)) do
  redis.call("HDEL", ring, sequence)
end
redis.call("HSET", ring, "term", term, "flusher", flusher)
redis.call("PEXPIRE", ring, keep_ms)
redis.call("ZADD", rings, now_ms, string.sub(ring, -16))
for _, epoch in ipairs(redis.call("ZRANGEBYSCORE", rings, "-inf", now_ms - keep_ms)) do
  redis.call("ZREM", rings, epoch)
  redis.call("HDEL", added, epoch)
end
local fields, known = redis.call("HGETALL", ring), {1}
for number = 1, #fields, 2 do
  if string.match(fields[number], "^%d+$") then
    known[#known + 1] = tonumber(fields[number])
    known[#known + 1] = tonumber(fields[number + 1]) or 0
  end
end
return known
