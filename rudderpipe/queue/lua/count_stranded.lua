--[[
  count_stranded: return how many jobs are active without a lock.

  One script, because a job may be finished between a read of `active` and a read of its lock.

  KEYS[1] active    LIST    ids of jobs being attempted; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key

  Returns   the number of active jobs without a lock among the newest 5000
  Promises  nothing is changed
  Costs     O(active)
  Same as   the jobs that Bull 4.16.5 moveStalledJobsToWait-7 finds in its second run
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
