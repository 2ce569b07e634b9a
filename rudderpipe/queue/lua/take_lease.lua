--[[
  take_lease: become, or find, the one sender of the queue.

  One script, because two senders that each read that nobody is would both be.

  KEYS[1] lease     STRING  "<number> <holder>", gone when it lapses; made when it is free
  KEYS[2] last      STRING  the last lease there was, lapsed or not

  ARGV[1] mine      string  the name under which the caller has had the lease; different for every tenure there ever is
  ARGV[2] fresh     string  the name under which it has the lease from now on when another has had it since
  ARGV[3] lease_ms  integer how long the lease holds unless renewed, milliseconds
  ARGV[4] dead      string  a lease whose holder is known to be dead, "" when none is: it counts as free
  ARGV[5] above     integer the caller's lease has a higher number: calls under this one may still be under way

  Returns   {1, the caller's lease, its milliseconds, 1 when no other has had it since it was mine, else 0}, or
            {0, the other's lease, milliseconds until it lapses, 0}
  Promises  a lease is never given twice: each has a number that is higher than the last one's
  Costs     O(1)
  Same as   nothing in Bull; two Node SDKs with one processor each take the jobs away from each other
]]
local lease, last = KEYS[1], KEYS[2]
local mine, fresh, lease_ms, dead, above = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local held, known = redis.call("GET", lease), redis.call("GET", last) or ""
local number, holder = string.match(known, "^(%d+) (.*)$")
local function is_ours(name) -- fresh when an earlier call has made it so and its answer was lost
  return name == mine or name == fresh
end
local lapses_in_ms = redis.call("PTTL", lease)
-- A lease that never lapses is no sender's, but a tool's: no sender could ever follow it.
if held and held ~= dead and lapses_in_ms >= 0 and not is_ours(string.match(held, "^%d+ (.*)$")) then
  return {0, held, lapses_in_ms, 0}
end
number, above = tonumber(number) or 0, tonumber(above)
local own = known
if not is_ours(holder) or number <= above then
  own = string.format("%.0f %s", math.max(number, above) + 1, holder == mine and mine or fresh)
end
redis.call("PEXPIRE", lease, lease_ms) -- Redis out of memory refuses a script whose first write takes some
redis.call("SET", last, own) -- first: a number that nobody got is no harm, one that two got is
redis.call("SET", lease, own, "PX", lease_ms)
return {1, own, tonumber(lease_ms), holder == mine and 1 or 0}
