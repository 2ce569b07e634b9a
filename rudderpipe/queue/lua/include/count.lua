-- Add to a number in a hash. A value that is not a number, which another tool may have written, counts as 0.
local function count(key, field, by)
  local answer = redis.pcall("HINCRBY", key, field, by)
  if type(answer) == "number" then
    return answer
  end
  local known = redis.call("HGET", key, field)
  if not known or (string.match(known, "^-?%d+$") and #known < 18) then
    return redis.call("HINCRBY", key, field, by) -- Redis refused for another reason: raise that error
  end
  redis.call("HSET", key, field, by)
  return tonumber(by)
end
