-- A job has left the failed set: its events, if they were counted as failed, are what `to` says.
local function forget_failure(account, counted, id, to)
  local known = redis.call("HGET", counted, id)
  if not known then
    return 0
  end
  count(account, to, 0) -- refused here, if at all: what is not counted as failed any more must be counted as `to`
  redis.call("HDEL", counted, id)
  local epoch, events = string.match(known, "^(%x+):(%d+)$")
  move_events(account, account .. ":" .. epoch, "failed", to, events)
  return tonumber(events)
end
