--[[
  promote_delayed: move delayed jobs that are due into the line.

  One script, because between two commands a job would be in neither `delayed` nor `wait`.

  KEYS[1] delayed   ZSET    jobs by the time they are due, in 1/4096 of a millisecond; loses those ids
  KEYS[2] wait      LIST    ids of waiting jobs, the next one at the tail; gains those ids at the head
  KEYS[3] paused    LIST    used instead of wait while the queue is paused
  KEYS[4] meta      STRING  exists while the queue is paused; read
  KEYS[5] active    LIST    ids of jobs being attempted; loses those ids
  KEYS[6] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the id that Bull's listeners see as the producer
  ARGV[3] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[4] max_jobs  integer at most so many in this call, 1 to 1000
  ARGV[5] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   {how many were moved, when the next one is due in milliseconds since 1970, or -1}
  Promises  jobs keep the order in which they are due
  Costs     O(max_jobs * active)
  Same as   Bull 4.16.5 updateDelaySet-6; unlike it, a job's priority does not move it forward
]]
local delayed, wait, paused, meta, active, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, token, now_ms, max_jobs, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include: line
-- include: among
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local line = line_of(wait, paused, meta)
local due = redis.call("ZRANGEBYSCORE", delayed, 0, string.format("%.0f", tonumber(now_ms) * 4096), "LIMIT", 0, max_jobs)
local there, missing, messages = among(line, 0, 4999), {}, {}
for number, id in ipairs(due) do
  redis.call("LREM", active, 0, id) -- first: Redis out of memory refuses a script whose first write needs memory
  if not there[id] then
    missing[#missing + 1] = id
  end
  messages[number] = {prefix .. "waiting@" .. token, id}
end
if #missing > 0 then
  redis.call("LPUSH", line, unpack(missing))
end
for _, id in ipairs(due) do
  redis.call("ZREM", delayed, id)
  if redis.call("TYPE", prefix .. id).ok == "hash" then
    redis.call("HSET", prefix .. id, "delay", "0")
  end
end
local following = redis.call("ZRANGE", delayed, 0, 0, "WITHSCORES")
local next_ms = -1
if following[2] then
  next_ms = math.floor(tonumber(following[2]) / 4096)
  messages[#messages + 1] = {delayed, string.format("%.0f", next_ms)}
end
publish(messages)
return {#due, next_ms}
