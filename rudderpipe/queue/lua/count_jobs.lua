--[[
  count_jobs: return the number of jobs in each state, and the events by state of one ring or of all rings.

  One script, because jobs and events that are read separately do not agree while a sender works.

  KEYS[1] wait      LIST    ids of waiting jobs; counted
  KEYS[2] paused    LIST    used instead of wait while the queue is paused; counted
  KEYS[3] meta      STRING  exists while the queue is paused; read
  KEYS[4] active    LIST    ids of jobs being attempted; counted
  KEYS[5] delayed   ZSET    jobs that wait until a time; counted
  KEYS[6] failed    ZSET    failed jobs; counted
  KEYS[7] completed ZSET    completed jobs; counted
  KEYS[8] account   HASH    events by state, over all rings; corrected, see Promises
  KEYS[9] counted   HASH    failed job -> "<epoch>:<events>"; deleted when there is no job
  KEYS[10] asked    HASH    the account to return: the account of one ring, or KEYS[8] again; corrected too

  Returns   {waiting, active, delayed, failed, completed, 1 while paused, {field, value, ...} of asked}
  Promises  when no job waits, is active or delayed, no event counts as queued. Events that counted as queued become
            `lost` if Redis had lost its data. The others become `elsewhere`, because another SDK's worker took them
            or a tool of Bull deleted them. When there is no failed job either, failed events become `removed`
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
      redis.call("HDEL", key, "unsure") -- the doubt is resolved; events that are missing later have another cause
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
