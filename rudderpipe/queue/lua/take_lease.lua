--[[
  take_lease: become, or find, the one sender of the queue.

  One script, because two senders that each read that nobody is would both be.

  KEYS[1] lease     STRING  "<number> <holder>", gone when it lapses; made when it is free
  KEYS[2] last      STRING  the last lease there was, lapsed or not

  ARGV[1] holder    string  who asks: different for every process that ever asks
  ARGV[2] lease_ms  integer how long the lease holds unless renewed, milliseconds
  ARGV[3] dead      string  a lease whose holder is known to be dead, "" when none is: it counts as free
  ARGV[4] mine      string  the lease the caller had, "" when none: it goes on when nobody has had another since

  Returns   {1, the caller's lease, its milliseconds} or {0, the other's lease, milliseconds until it lapses}
  Promises  a lease is never given twice: each has a number that is higher than the last one's
  Costs     O(1)
  Same as   nothing in Bull; two Node SDKs with one processor each take the jobs away from each other
]]
local lease, last = KEYS[1], KEYS[2]
local holder, lease_ms, dead, mine = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local held = redis.call("GET", lease)
if held and held ~= dead and held ~= mine then
  return {0, held, redis.call("PTTL", lease)}
end
local known = redis.call("GET", last) or ""
local own = mine
if mine == "" or known ~= mine then
  own = string.format("%.0f %s", (tonumber(string.match(known, "^(%d+) ")) or 0) + 1, holder)
end
redis.call("SET", last, own) -- first: a number that nobody got is no harm, one that two got is
redis.call("SET", lease, own, "PX", lease_ms)
return {1, own, tonumber(lease_ms)}
