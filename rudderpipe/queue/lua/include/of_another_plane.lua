-- A queue belongs to one data plane. The error to return when it has jobs for another one, or nil: it is the caller's
-- then, and known to be, unless the caller does not say who it is.
local function of_another_plane(owner, plane, is_empty)
  local known = redis.call("GET", owner)
  if plane == "" or known == plane then
    return nil
  end
  if known and not is_empty then
    return redis.error_reply("OTHERPLANE " .. known)
  end
  redis.pcall("SET", owner, plane) -- Redis out of memory refuses it: the queue has no new owner then, and goes on
end
