--[[
  retry_failed: put failed jobs in line again, with no attempt counted.

  One script, because between two commands a job would be in neither `failed` nor `wait`.

  KEYS[1] failed    ZSET    failed jobs by time; loses those ids
  KEYS[2] wait      LIST    ids of waiting jobs, the next one at the tail; gains those ids
  KEYS[3] paused    LIST    used instead of wait while the queue is paused
  KEYS[4] meta      STRING  exists while the queue is paused; read
  KEYS[5] account   HASH    events over all rings; failed becomes queued
  KEYS[6] counted   HASH    failed job -> "<epoch>:<events>" it was counted with; loses those ids

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the id that Bull's listeners see as the producer
  ARGV[3] now_ms    integer milliseconds since 1970, the caller's clock
  ARGV[4] first     integer 1: ahead of the waiting jobs, the first of them next in line; 0: behind them, in their order
  ARGV[5] jobs      msgpack list of (id, failed ms, data, digest): the data to retry it with, or "" for no change, and
                    the SHA-1, in hexadecimal, of the data that the caller has read; at most 1000

  Returns   for each job 1, or 0 when it did not fail at that time, has left the failed set, another program holds its
            lock, or its data is to be changed and is not what the caller has read: nothing is changed then
  Promises  a job is in line once, even if this is called again, and its next attempt is counted as the first
  Costs     O(jobs), plus the size of those whose data is changed
  Same as   Bull 4.16.5 reprocessJob-6 for each; unlike it, a job that has not failed is not changed, and
            attemptsMade and the attempts in the data start at 0, and the write key in the data may be another one
]]
local failed, wait, paused, meta, account, counted = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, token, now_ms, first, jobs = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include: line
-- include: failed_at
-- include: among
-- include: publish
-- include: count
-- include: move_events
-- include: forget_failure

local line = line_of(wait, paused, meta)
-- An earlier call that was cut may have put some of the jobs in line already.
local there = among(line, first == "1" and -5000 or 0, first == "1" and -1 or 4999)
local back, messages = {}, {}
jobs = cmsgpack.unpack(jobs)
for place = 1, #jobs do
  local number = first == "1" and #jobs + 1 - place or place
  local id, failed_ms, data, digest = jobs[number][1], jobs[number][2], jobs[number][3], jobs[number][4]
  local key = prefix .. id
  local is_free = redis.call("EXISTS", key .. ":lock") == 0 and failed_at(failed, id, failed_ms)
  if is_free and data ~= "" then
    is_free = redis.sha1hex(redis.call("HGET", key, "data") or "") == digest
  end
  if not is_free then
    back[number] = 0
  else
    redis.call("HDEL", key, "finishedOn", "processedOn", "failedReason")
    redis.call("HSET", key, "retriedOn", now_ms, "attemptsMade", "0")
    if data ~= "" then
      redis.call("HSET", key, "data", data)
    end
    forget_failure(account, counted, id, "queued")
    if not there[id] then
      redis.call(first == "1" and "RPUSH" or "LPUSH", line, id)
    end
    redis.call("ZREM", failed, id)
    messages[#messages + 1] = {prefix .. "waiting@" .. token, id}
    back[number] = 1
  end
end
publish(messages)
return back
