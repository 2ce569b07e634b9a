--[[
  find_remains: return whether a queue is sealed, whether it is open, and whether it still has jobs from before its seal.

  One script, because a job that moves between two commands would be seen in neither list.

  KEYS[1] sealed    STRING* "<generation> <id>"; read
  KEYS[2] opened    STRING* exists when senders may deliver from the queue; read
  KEYS[3] wait      LIST*   ids of waiting jobs, the next one at the tail; read
  KEYS[4] paused    LIST*   used instead of wait while the queue is paused; read
  KEYS[5] active    LIST*   ids of jobs being attempted; read
  KEYS[6] delayed   ZSET*   jobs that wait until a time; read

  Returns   {1 if sealed, 1 if open, 1 if a job with a number up to the one in the seal is waiting, active or delayed}
  Promises  nothing is changed
  Costs     O(active), and the 5,000 next jobs that wait and that are delayed
  Same as   nothing in Bull
]]
local sealed, opened, wait, paused, active, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local seal = redis.call("GET", sealed)
local last = tonumber(string.match(seal or "", "^%d+ (%d+)$") or "0")
local function has_old(ids)
  for _, id in ipairs(ids) do
    local number = string.find(id, "^%d+$") and tonumber(id)
    if number and number <= last then
      return true
    end
  end
  return false
end
-- Jobs of before the seal are the next in line, except behind a few that another program put back.
local remains = has_old(redis.call("LRANGE", wait, -5000, -1)) or has_old(redis.call("LRANGE", paused, -5000, -1))
  or has_old(redis.call("LRANGE", active, 0, -1)) or has_old(redis.call("ZRANGE", delayed, 0, 4999))
return {seal and 1 or 0, redis.call("EXISTS", opened), remains and 1 or 0}
