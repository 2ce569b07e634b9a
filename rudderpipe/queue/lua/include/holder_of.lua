-- The token in a job's lock, or false. A key there that is no lock belongs to another program: "", which is no token.
local function holder_of(lock)
  local holder = redis.pcall("GET", lock)
  return type(holder) == "table" and "" or holder
end
