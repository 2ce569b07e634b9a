--[[
  release_lease: give the lease up, so that another sender can take the queue at once.

  One script, because a lease that is read and then deleted could be another sender's by then.

  KEYS[1] lease     STRING  the lease of the queue's one sender; deleted when it is the caller's

  ARGV[1] fence     string  the caller's lease

  Returns   1, or 0 when it was not the caller's
  Promises  a lease that another sender has is left alone
  Costs     O(1)
  Same as   nothing in Bull
]]
local lease = KEYS[1]
local fence = ARGV[1]

if redis.call("GET", lease) ~= fence then
  return 0
end
return redis.call("DEL", lease)
