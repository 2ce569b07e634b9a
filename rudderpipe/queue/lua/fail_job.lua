--[[
  fail_job: put a job that is not tried again automatically into the failed set, with its reason.

  One script, because between two commands the job would be in neither `active` nor `failed`.

  KEYS[1] active    LIST    ids of jobs being attempted; loses that id
  KEYS[2] failed    ZSET    failed jobs by time; gains that id
  KEYS[3] stalled   SET     ids suspected of being stalled; loses that id
  KEYS[4] account   HASH    events over all rings; queued becomes failed
  KEYS[5] counted   HASH    failed job -> "<epoch>:<events>"; gains that id, for a later retry
  KEYS[6] last_id   STRING  the last job's number; grows when a displaced job needs a number
  KEYS[7] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the lock
  ARGV[3] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[4] id        string  the job
  ARGV[5] reason    string  the reason, as operators see it
  ARGV[6] data      string  the job's data with its attempts at 0; "" leaves the data unchanged
  ARGV[7] epoch     string  the ring's epoch in hexadecimal, "" when another SDK made the job
  ARGV[8] events    integer how many events the job holds
  ARGV[9] displaced integer 1 when the id's key does not belong to a job and must not be written to
  ARGV[10] status    integer the status of the data plane's response, 0 without one
  ARGV[11] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   1, or 0 when another sender has its lock or it is not active: nothing is changed then
  Promises  a failed job keeps its data and has all six fields of a job, and a retry by any tool of Bull really tries
            again. If the id's key does not belong to a job, the failure is stored under a new number
  Costs     O(active)
  Same as   Bull 4.16.5 saveStacktrace-1 and moveToFinished-9; unlike them attemptsMade is 0 afterwards
]]
local active, failed, stalled, account, counted, last_id, lease =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local prefix, token, now_ms, id, reason, data, epoch, events, displaced, status, fence =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
-- include: count
-- include: move_events
-- include: holder_of
-- include: among
-- include: finished
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local lock, active_id = prefix .. id .. ":lock", id
local holder = holder_of(lock)
if (holder and holder ~= token) or not among(active, 0, -1)[id] then
  return 0
end
redis.call("SREM", stalled, id)
redis.call("DEL", lock) -- Order: before the job is failed, because a failed job that is locked cannot be retried
local kind = redis.call("TYPE", prefix .. id).ok
if displaced == "1" or (kind ~= "hash" and kind ~= "none") then
  id = tostring(redis.call("INCR", last_id))
end
local key = prefix .. id
for field, value in pairs({name = "__default__", data = "{}", opts = "{}", timestamp = now_ms, delay = "0",
  priority = "0"}) do
  redis.call("HSETNX", key, field, value)
end
redis.call("HSET", key, "failedReason", reason, "finishedOn", now_ms, "attemptsMade", "0",
  "stacktrace", cjson.encode({reason}))
if data ~= "" then
  redis.call("HSET", key, "data", data)
end
-- Order: the job leaves `active` last, so an earlier call that was cut may have counted it already.
if epoch ~= "" and not redis.call("HGET", counted, id) then
  local ring = account .. ":" .. epoch
  if redis.call("TYPE", ring).ok == "hash" then
    -- Order: before the events count as failed, because the flusher passes the reason on when it sees the count.
    redis.call("HSET", ring, "failedReason", reason, "failedStatus", status, "failedAt", now_ms)
  end
  move_events(account, ring, "queued", "failed", events)
  redis.call("HSET", counted, id, epoch .. ":" .. events)
end
redis.call("ZADD", failed, now_ms, id)
redis.call("LREM", active, -1, active_id)
publish({{prefix .. "failed", finished(id, reason)}})
return 1
