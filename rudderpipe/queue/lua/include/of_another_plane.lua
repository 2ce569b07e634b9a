-- Return the error for a queue that has jobs for another data plane, or nil. A queue belongs to one data plane. An
-- empty queue, or one without a known owner, becomes the caller's, unless the caller passes "".
local function of_another_plane(owner, plane, is_empty)
  local known = redis.call("GET", owner)
  if plane == "" or known == plane then
    return nil
  end
  if known and not is_empty then
    return redis.error_reply("OTHERPLANE " .. known)
  end
  redis.pcall("SET", owner, plane) -- Redis out of memory may refuse this: the queue then works on without a new owner
end
