-- Move events from one state to another, in the account over all rings and in the account of their ring if it exists.
-- Return true if it exists.
local function move_events(account, ring, from, to, events)
  count(account, from, -events)
  count(account, to, events)
  if redis.call("TYPE", ring).ok == "hash" then
    count(ring, from, -events)
    count(ring, to, events)
    return true
  end
end
