-- Return the token in a job's lock, or false without a lock. If the key is not a string, it belongs to another program:
-- return "", which no sender has as its token.
local function holder_of(lock)
  local holder = redis.pcall("GET", lock)
  return type(holder) == "table" and "" or holder
end
