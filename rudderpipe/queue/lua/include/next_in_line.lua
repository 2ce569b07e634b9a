-- Put ids at the tail of the line; the last id is the next to run. Ids that an earlier call had put there do not move.
local function next_in_line(line, ids)
  local there = among(line, -5000, -1)
  local missing = {}
  for _, id in ipairs(ids) do
    if not there[id] then
      missing[#missing + 1] = id
    end
  end
  if #missing > 0 then
    redis.call("RPUSH", line, unpack(missing))
  end
end
