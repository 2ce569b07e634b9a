--[[
  set_route: store the route if it is still what the caller has read.

  One script, because two processes that make the route at the same time must not replace each other's.

  KEYS[1] route     STRING* JSON, the queues of each generation; created when missing

  ARGV[1] known     string  the route that the caller has read; "" when there was none
  ARGV[2] wanted    string  the route that takes its place

  Returns   the route that is in Redis after the call
  Promises  of several callers that have read the same route, one stores its own
  Costs     O(1), plus the size of the route
  Same as   nothing in Bull
]]
local route = KEYS[1]
local known, wanted = ARGV[1], ARGV[2]

local found = redis.call("GET", route) or ""
if found ~= known then
  return found
end
redis.call("SET", route, wanted)
return wanted
