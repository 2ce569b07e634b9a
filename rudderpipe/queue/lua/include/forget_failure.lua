-- Move the events of a job that has left the failed set from `failed` to the state `to`, if they were counted as
-- failed. Return the number of events moved.
local function forget_failure(account, counted, id, to)
  local known = redis.call("HGET", counted, id)
  if not known then
    return 0
  end
  count(account, to, 0) -- Order: a refusal must come here, before the events stop being counted as failed
  redis.call("HDEL", counted, id)
  local epoch, events = string.match(known, "^(%x+):(%d+)$")
  move_events(account, account .. ":" .. epoch, "failed", to, events)
  return tonumber(events)
end
