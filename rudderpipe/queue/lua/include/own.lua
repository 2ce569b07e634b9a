-- Whether a job is its sender's still: the lock is its own, or lapsed while nobody took the job away from `active`.
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
