--[[
  count_jobs: how many jobs are in each state, and where the events of one ring are, or of all.

  One script, because jobs and events that are read apart never agree while a sender works.

  KEYS[1] wait      LIST    ids of waiting jobs; counted
  KEYS[2] paused    LIST    takes the place of wait while the queue is paused; counted
  KEYS[3] meta      STRING  exists while the queue is paused; read
  KEYS[4] active    LIST    ids of jobs being attempted; counted
  KEYS[5] delayed   ZSET    jobs that wait for a time; counted
  KEYS[6] failed    ZSET    failed jobs; counted
  KEYS[7] completed ZSET    completed jobs; counted
  KEYS[8] account   HASH    events by state, over all rings; corrected, see Promises
  KEYS[9] counted   HASH    failed job -> "<epoch>:<events>"; goes with the last job
  KEYS[10] asked    HASH    the account that is asked for: one ring's, or the same once more; corrected too

  Returns   {waiting, active, delayed, failed, completed, 1 while paused, {field, value, ...} of asked}
  Promises  when no job waits, is active or delayed, no event is queued: what was counted so had been taken by another
            SDK's worker or deleted by a tool of Bull, and is `elsewhere` from then on; or Redis had lost its data, and
            it is `lost`. When no failed job is there either, what was counted as failed is `removed`
  Costs     O(fields of asked)
  Same as   Bull 4.16.5 getJobCounts, with the events
]]
local wait, paused, meta, active, delayed, failed, completed, account, counted, asked =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- include: count

local waiting = redis.call("LLEN", wait) + redis.call("LLEN", paused)
local attempted, later = redis.call("LLEN", active), redis.call("ZCARD", delayed)
local function correct(from, to)
  for _, key in ipairs({account, asked}) do
    local events = tonumber(redis.call("HGET", key, from) or "0") or 0
    if events ~= 0 then
      count(key, from, -events)
      count(key, to, events)
    end
  end
end
local failures = redis.call("ZCARD", failed)
if waiting + attempted + later == 0 then
  for _, key in ipairs({account, asked}) do
    local doubt = redis.call("HGET", key, "unsure")
    if doubt then
      local queued = tonumber(redis.call("HGET", key, "queued") or "0") or 0
      local lost = math.min(queued, tonumber(doubt) or 0)
      if lost > 0 then
        count(key, "queued", -lost)
        count(key, "lost", lost)
      end
      redis.call("HDEL", key, "unsure") -- settled: what is missing from now on is another matter
    end
  end
  correct("queued", "elsewhere")
  if failures == 0 then
    redis.call("DEL", counted)
    correct("failed", "removed")
  end
end
return {waiting, attempted, later, failures, redis.call("ZCARD", completed),
  redis.call("EXISTS", meta), redis.call("HGETALL", asked)}
