--[[
  take_jobs: move the next waiting jobs to active and lock them for one sender.

  One script, because a job that is in `active` without a lock looks stalled to
  every other sender; between two commands it would be.

  KEYS[1] wait      LIST    ids of waiting jobs, next at the tail; loses its tail
  KEYS[2] active    LIST    ids of jobs being attempted; gains those ids at the head
  KEYS[3] meta      STRING  exists while the queue is paused: nothing is taken then
  KEYS[4] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[5] priority  ZSET    waiting jobs with a priority; loses those ids
  KEYS[6] account   HASH    events over all rings; failed becomes queued for a job that was retried
  KEYS[7] counted   HASH    failed job -> "<epoch>:<events>" it was counted with; loses those ids

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that takes the locks
  ARGV[3] lock_ms   integer how long a lock holds unless renewed, milliseconds
  ARGV[4] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[5] max_jobs  integer at most so many jobs, 1 to 1000
  ARGV[6] max_bytes integer stop before the jobs' data have more bytes together; the first is always taken

  Returns   {{id, {field, value, ...}}, ...}, in the order in which they waited
  Promises  no id is ever in `active` without `<prefix><id>:lock`
  Costs     O(max_jobs), plus the size of the jobs
  Same as   Bull 4.16.5 moveToActive-8, less rate limit and the event `drained`
]]
local wait, active, meta, stalled, priority, account, counted =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local prefix, token, lock_ms, now_ms, max_jobs, max_bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local taken = {}
if redis.call("EXISTS", meta) == 1 then
  return taken
end
local bytes = 0
for number = 1, tonumber(max_jobs) do
  local id = redis.call("LINDEX", wait, -1)
  if not id then
    break
  end
  bytes = bytes + redis.call("HSTRLEN", prefix .. id, "data")
  if number > 1 and bytes > tonumber(max_bytes) then
    break
  end
  redis.call("SREM", stalled, id) -- first: Redis out of memory refuses a script whose first write takes some
  redis.call("RPOPLPUSH", wait, active)
  redis.call("SET", prefix .. id .. ":lock", token, "PX", lock_ms)
  redis.call("ZREM", priority, id)
  redis.call("PUBLISH", prefix .. "active@" .. token, id)
  local known = redis.call("HGET", counted, id)
  if known then
    local epoch, events = string.match(known, "^(%x+):(%d+)$")
    redis.call("HDEL", counted, id)
    redis.call("HINCRBY", account, "failed", -events)
    redis.call("HINCRBY", account, "queued", events)
    local ring = prefix .. "ring:" .. epoch
    if redis.call("EXISTS", ring) == 1 then
      redis.call("HINCRBY", ring, "failed", -events)
      redis.call("HINCRBY", ring, "queued", events)
    end
  end
  local fields = redis.call("HGETALL", prefix .. id)
  redis.call("HSET", prefix .. id, "processedOn", now_ms)
  taken[number] = {id, fields}
end
return taken
