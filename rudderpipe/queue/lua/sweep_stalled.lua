--[[
  sweep_stalled: put jobs that were active at the last sweep and have no lock now next in line again.

  One script, because between two commands a job would be in neither `active` nor `wait`.

  KEYS[1] stalled   SET     ids that were active at the last sweep; replaced by the ids that are active now
  KEYS[2] wait      LIST    ids of waiting jobs, the next one at the tail; gains stalled ids at the tail
  KEYS[3] paused    LIST    used instead of wait while the queue is paused
  KEYS[4] meta      STRING  exists while the queue is paused; read
  KEYS[5] active    LIST    ids of jobs being attempted; loses stalled ids
  KEYS[6] failed    ZSET    failed jobs by time; gains ids that stalled more than once
  KEYS[7] check     STRING  exists while the last sweep is younger than the interval: nothing is done then
  KEYS[8] account   HASH    events over all rings; queued becomes failed, also in <account>:<epoch>, the ring's
  KEYS[9] counted   HASH    failed job -> "<epoch>:<events>"; gains ids that stalled more than once

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[3] every_ms  integer the interval between two sweeps, which all senders share, milliseconds

  Returns   how many were put back in line
  Promises  for a queue with several senders: a job whose sender died is tried again after one to two intervals
  Costs     O(active), plus the size of the jobs that fail
  Same as   Bull 4.16.5 moveStalledJobsToWait-7, maxStalledCount 1; unlike it, a job without opts is not lost
]]
local stalled, wait, paused, meta, active, failed, check, account, counted =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local prefix, now_ms, every_ms = ARGV[1], ARGV[2], ARGV[3]
-- include: line
-- include: among
-- include: next_in_line
-- include: finished
-- include: count
-- include: move_events
-- include: made_by
-- include: publish

if redis.call("EXISTS", check) == 1 then
  return 0
end
redis.call("PEXPIRE", check, every_ms) -- first: Redis out of memory refuses a script whose first write needs memory
redis.call("SET", check, now_ms, "PX", every_ms)
local line = line_of(wait, paused, meta)
local here, messages, back = among(active, 0, -1), {}, 0
for _, id in ipairs(redis.call("SMEMBERS", stalled)) do
  local key = prefix .. id
  if here[id] and redis.call("EXISTS", key .. ":lock") == 0 then
    local is_job = redis.call("TYPE", key).ok == "hash"
    local stalls = is_job and (tonumber(redis.call("HGET", key, "stalledCounter") or "0") or 0) + 1 or 0
    if stalls > 1 then
      local epoch, events = made_by(redis.call("HGET", key, "data"))
      if epoch and not redis.call("HGET", counted, id) then
        move_events(account, account .. ":" .. epoch, "queued", "failed", events)
        redis.call("HSET", counted, id, epoch .. ":" .. events)
      end
      redis.call("HSET", key, "failedReason", "job stalled more than allowable limit", "finishedOn", now_ms)
      redis.call("ZADD", failed, now_ms, id)
      messages[#messages + 1] = {prefix .. "failed", finished(id, "job stalled more than maxStalledCount")}
    else
      next_in_line(line, {id})
      messages[#messages + 1] = {prefix .. "stalled@", id}
      back = back + 1
    end
    redis.call("LREM", active, 1, id)
    if is_job then
      redis.call("HSET", key, "stalledCounter", stalls)
    end
  end
end
redis.call("DEL", stalled)
for _, id in ipairs(redis.call("LRANGE", active, 0, 4999)) do
  redis.call("SADD", stalled, id)
end
publish(messages)
return back
