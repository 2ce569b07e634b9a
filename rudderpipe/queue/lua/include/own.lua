-- Return true if a sender still owns the job: it holds the lock, or the lock has expired and the job is still active.
local function own(active, lock, token, id)
  local holder = holder_of(lock)
  if holder then
    return holder == token
  end
  for _, other in ipairs(redis.call("LRANGE", active, 0, 4999)) do
    if other == id then
      return true
    end
  end
  return false
end
