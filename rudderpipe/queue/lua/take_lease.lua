--[[
  take_lease: take the lease, which makes the caller the one sender of the queue, or return who has it.

  One script, because two senders that both read a free lease would both take it.

  KEYS[1] lease     STRING  "<number> <holder>", expires with the lease; created when the lease is free
  KEYS[2] last      STRING  the last lease, expired or not

  ARGV[1] mine      string  the name under which the caller had the lease; a new one for every unbroken holding, forever
  ARGV[2] fresh     string  the name under which it gets the lease when another sender has had it since
  ARGV[3] lease_ms  integer how long the lease holds unless it is renewed, milliseconds
  ARGV[4] dead      string  a lease whose holder is known to be dead, which counts as free; "" for none
  ARGV[5] above     integer a number that the caller's lease must exceed, because calls under it may still be under way

  Returns   {1, the caller's lease, its milliseconds, 1 when no other sender has had it since it was `mine`, else 0},
            or {0, the other sender's lease, milliseconds until it expires, 0}
  Promises  a lease is never given twice, because each has a higher number than the last one. It lapses within 10
            minutes, also when the clock was set back or is another server's now
  Costs     O(1)
  Same as   nothing in Bull; two Node SDKs with one processor each take the jobs away from each other
]]
local lease, last = KEYS[1], KEYS[2]
local mine, fresh, lease_ms, dead, above = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local LONGEST_MS = 600000 -- of the setting lease_ms

local held, known = redis.call("GET", lease), redis.call("GET", last) or ""
local number, holder = string.match(known, "^(%d+) (.*)$")
local function is_ours(name) -- `fresh`, when an earlier call took it and its answer was lost
  return name == mine or name == fresh
end
local lapses_in_ms = redis.call("PTTL", lease)
if lapses_in_ms > LONGEST_MS then
  redis.call("PEXPIRE", lease, LONGEST_MS)
  lapses_in_ms = LONGEST_MS
end
-- A lease without an expiry was written by a tool, not by a sender. It is ignored, or no sender could ever take over.
if held and held ~= dead and lapses_in_ms >= 0 and not is_ours(string.match(held, "^%d+ (.*)$")) then
  return {0, held, lapses_in_ms, 0}
end
number, above = tonumber(number) or 0, tonumber(above)
local own = known
if not is_ours(holder) or number <= above then
  own = string.format("%.0f %s", math.max(number, above) + 1, holder == mine and mine or fresh)
end
redis.call("PEXPIRE", lease, lease_ms) -- Redis out of memory refuses a script whose first write needs memory
redis.call("SET", last, own) -- Order: first, because an unused number is harmless, and a number used twice is not
redis.call("SET", lease, own, "PX", lease_ms)
return {1, own, tonumber(lease_ms), holder == mine and 1 or 0}
