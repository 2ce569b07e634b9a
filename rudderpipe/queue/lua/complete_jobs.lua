--[[
  complete_jobs: remove delivered jobs, or keep the last of them, so that operators can see them.

  One script, because a job that has lost its lock and is still in `active` would be sent again.

  KEYS[1] active    LIST*   ids of jobs being attempted; loses those ids
  KEYS[2] stalled   SET*    ids suspected of being stalled; loses those ids
  KEYS[3] completed ZSET*   completed jobs by time; gains those ids when some are kept, loses the oldest
  KEYS[4] account   HASH*   events over all rings; queued becomes delivered, also in <account>:<epoch>, the ring's
  KEYS[5] lease     STRING* the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the locks
  ARGV[3] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[4] keep      integer how many completed jobs stay, 0 to 1000000; a call removes at most 1000 and its own jobs
  ARGV[5] jobs      msgpack list of (id, epoch, events): epoch in hexadecimal, "" when another SDK made the job
  ARGV[6] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   for each job 1, or 0 when another sender has its lock or it is not active: nothing is changed then
  Promises  each event is counted as delivered once
  Costs     O(jobs + active)
  Same as   Bull 4.16.5 moveToFinished-9 with removeOnComplete; unlike it, a job whose lock only expired is completed
]]
local active, stalled, completed, account, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local prefix, token, now_ms, keep, jobs, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- include: count
-- include: move_events
-- include: leave_tombstone
-- include: holder_of
-- include: finished
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local done = {}
keep = tonumber(keep)
jobs = cmsgpack.unpack(jobs)
if #jobs == 0 then
  return done
end
local line = redis.call("LRANGE", active, 0, -1)
local here = {}
for _, id in ipairs(line) do
  here[id] = true
end
local ids, locks, counts = {}, {}, false
for number, job in ipairs(jobs) do
  counts = counts or job[2] ~= ""
  ids[number] = job[1]
  locks[number] = prefix .. job[1] .. ":lock"
end
redis.call("HLEN", account) -- read here: a key of another type stops the script before its first write
if keep > 0 then
  redis.call("ZCARD", completed)
end
local holders = redis.call("MGET", unpack(locks))
local ours, own_locks = {}, {}
for number, job in ipairs(jobs) do
  local id = job[1]
  local holder = holders[number] or holder_of(locks[number]) -- a key of another type has no value for MGET
  done[number] = 0
  if here[id] and (not holder or holder == token) then
    here[id] = false
    ours[#ours + 1] = number
    own_locks[#own_locks + 1] = locks[number]
  end
end
redis.call("SREM", stalled, unpack(ids)) -- first: Redis out of memory refuses a script whose first write needs memory
if #ours == 0 then
  return done
end
if counts then
  count(account, "delivered", 0) -- Order: a refusal must come here, because a removed job must be counted
end

if keep > 0 then
  for _, number in ipairs(ours) do
    local key = prefix .. ids[number]
    local kind = redis.call("TYPE", key).ok
    if kind == "hash" or kind == "none" then
      redis.call("ZADD", completed, now_ms, ids[number])
      redis.call("HSET", key, "returnvalue", "null", "finishedOn", now_ms)
    end
  end
end
redis.call("DEL", unpack(own_locks))
local are_last = true -- the jobs that were taken first are the last of `active`, the first of them at its tail
for place, number in ipairs(ours) do
  are_last = are_last and line[#line + 1 - place] == ids[number]
end
local refused
if are_last then
  refused = redis.pcall("LTRIM", active, 0, -#ours - 1)
  refused = refused.err and refused
end
local epochs, events_of, messages, gone = {}, {}, {}, {}
for _, number in ipairs(ours) do
  local removed = not are_last and redis.pcall("LREM", active, -1, ids[number])
  if type(removed) == "table" then
    refused = removed
  end
  if refused then
    break
  end
  local id, epoch, events = jobs[number][1], jobs[number][2], jobs[number][3]
  done[number] = 1
  if epoch ~= "" then
    if not events_of[epoch] then
      epochs[#epochs + 1] = epoch
    end
    events_of[epoch] = (events_of[epoch] or 0) + events
  end
  gone[#gone + 1] = prefix .. id
  gone[#gone + 1] = prefix .. id .. ":logs"
  messages[#messages + 1] = {prefix .. "completed", finished(id, "null")}
end
for _, epoch in ipairs(epochs) do
  local ring = account .. ":" .. epoch
  if move_events(account, ring, "queued", "delivered", events_of[epoch]) then
    local left = redis.call("HMGET", ring, "ended", "queued", "failed")
    if left[1] and (tonumber(left[2]) or 0) <= 0 and (tonumber(left[3] or "0") or 0) <= 0 then
      leave_tombstone(ring)
    end
  end
end
if keep == 0 and #gone > 0 then
  redis.call("DEL", unpack(gone))
end
if refused then
  return refused
end
if keep > 0 then
  local surplus = redis.call("ZCARD", completed) - keep
  for _, id in ipairs(redis.call("ZRANGE", completed, 0, math.min(surplus, #jobs + 1000) - 1)) do
    if surplus <= 0 then
      break
    end
    redis.call("DEL", prefix .. id, prefix .. id .. ":logs")
    redis.call("ZREM", completed, id)
  end
end
publish(messages)
return done
