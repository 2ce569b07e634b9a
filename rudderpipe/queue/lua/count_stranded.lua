--[[
  count_stranded: how many jobs are active without a lock.

  One script, because a job that is active at one look and without a lock at the next may have been settled between.

  KEYS[1] active    LIST    ids of jobs being attempted; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key

  Returns   their number, of the newest 5000
  Promises  nothing is changed
  Costs     O(active)
  Same as   what Bull 4.16.5 moveStalledJobsToWait-7 finds at its second look
]]
local active = KEYS[1]
local prefix = ARGV[1]

local stranded = 0
for _, id in ipairs(redis.call("LRANGE", active, 0, 4999)) do
  if redis.call("EXISTS", prefix .. id .. ":lock") == 0 then
    stranded = stranded + 1
  end
end
return stranded
