-- Events change their state in the account over all rings, and in that of their ring while it is kept.
local function move_events(account, ring, from, to, events)
  redis.call("HINCRBY", account, from, -events)
  redis.call("HINCRBY", account, to, events)
  if redis.call("EXISTS", ring) == 1 then
    redis.call("HINCRBY", ring, from, -events)
    redis.call("HINCRBY", ring, to, events)
  end
end
