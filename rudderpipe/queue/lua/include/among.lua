-- Return the ids in a part of a list, as a table of id -> true.
local function among(list, first, last)
  local here = {}
  for _, id in ipairs(redis.call("LRANGE", list, first, last)) do
    here[id] = true
  end
  return here
end
