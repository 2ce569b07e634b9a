--[[
  measure_jobs: return how many bytes of Redis's memory the jobs take, also those of other SDKs.

  One script, because jobs that move between the lists during the call would be measured twice or not at all.

  KEYS[1] wait      LIST    ids of waiting jobs; sampled
  KEYS[2] paused    LIST    used instead of wait while the queue is paused; sampled
  KEYS[3] active    LIST    ids of jobs being attempted; sampled
  KEYS[4] delayed   ZSET    jobs that wait until a time; sampled
  KEYS[5] failed    ZSET    failed jobs; sampled
  KEYS[6] completed ZSET    completed jobs; sampled

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] sample    integer how many jobs to measure in each state, 10 to 1000; all of them when there are fewer

  Returns   {jobs, bytes}; in a state with more jobs than were measured, the others count with the mean size
  Promises  no stored total is used, so the result stays right when other tools add or delete jobs
  Costs     O(sample) for a queue of any length (reaching a list's middle costs one step for each 8 kB of ids)
  Same as   nothing in Bull
]]
local wait, paused, active, delayed, failed, completed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, sample = ARGV[1], ARGV[2]

local jobs, bytes = 0, 0
local function measure(key, count, range)
  local length = redis.call(count, key)
  local looks = math.min(length, tonumber(sample))
  local windows = length > looks and 10 or 1 -- ten windows of adjacent jobs, evenly spread
  local seen, size = 0, 0
  for window = 0, windows - 1 do
    local start = math.floor(window * length / windows)
    for _, id in ipairs(redis.call(range, key, start, start + math.floor(looks / windows) - 1)) do
      size = size + (redis.call("MEMORY", "USAGE", prefix .. id, "SAMPLES", 0) or 0)
      seen = seen + 1
    end
  end
  jobs = jobs + length
  if seen > 0 then
    bytes = bytes + size * length / seen
  end
end
for _, list in ipairs({wait, paused, active}) do
  measure(list, "LLEN", "LRANGE")
end
for _, set in ipairs({delayed, failed, completed}) do
  measure(set, "ZCARD", "ZRANGE")
end
return {jobs, math.floor(bytes)}
