--[[
  take_jobs: move the next waiting jobs to active and lock them for one sender.

  One script, because between two commands a job would be in `active` without a lock, and other senders would take it
  for a stalled one.

  KEYS[1] wait      LIST*   ids of waiting jobs, the next one at the tail; loses its tail
  KEYS[2] active    LIST*   ids of jobs being attempted; gains those ids at the head
  KEYS[3] meta      STRING* exists while the queue is paused: nothing is taken then
  KEYS[4] stalled   SET*    ids suspected of being stalled; loses those ids
  KEYS[5] priority  ZSET*   waiting jobs with a priority; loses those ids
  KEYS[6] account   HASH*   events over all rings; failed becomes queued for a job that was retried
  KEYS[7] counted   HASH*   failed job -> "<epoch>:<events>" it was counted with; loses those ids
  KEYS[8] delayed   ZSET*   jobs that wait until a time; loses those ids, if a call that was cut left them there
  KEYS[9] failed    ZSET*   failed jobs; loses those ids, if a call that was cut left them there
  KEYS[10] owner    STRING* the data plane that the queue's jobs are for; created when it is not known
  KEYS[11] lease    STRING* the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that takes the locks
  ARGV[3] lock_ms   integer how long a lock holds unless renewed, milliseconds
  ARGV[4] now_ms    integer milliseconds since 1970, the sender's clock
  ARGV[5] max_jobs  integer the most jobs to take, 1 to 1000
  ARGV[6] max_bytes integer the most bytes of data of all these jobs together; the first job is always taken
  ARGV[7] tell      integer 1 to publish `drained` when no job waits, because the caller's last call found one
  ARGV[8] plane     string  the caller's data plane; "" when it is not given
  ARGV[9] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   {{id, {field, value, ...}}, ...}, in the order in which they waited, with the fields data and attemptsMade,
            and lane if the opts have one; no field for an id without a key, false instead of the fields when its key
            is not a hash. The error OTHERPLANE when the jobs that wait are for another data plane
  Promises  no id is added to `active` without `<prefix><id>:lock`, and no job there lacks a field that Bull's stalled
            check reads
  Costs     O(max_jobs), plus the size of the jobs
  Same as   Bull 4.16.5 moveToActive-8, without the rate limit; like it, it overwrites a lock that is left on a job
]]
local wait, active, meta, stalled, priority, account, counted, delayed, failed, owner, lease =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local prefix, token, lock_ms, now_ms, max_jobs, max_bytes, tell, plane, fence =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
-- include: count
-- include: move_events
-- include: forget_failure
-- include: among
-- include: publish
-- include: fenced
-- include: of_another_plane

local lost = fenced(lease, fence)
if lost then
  return lost
end

local taken = {}
if redis.call("GET", meta) then
  return taken
end
local line = redis.call("LRANGE", wait, -tonumber(max_jobs), -1)
local refused = #line > 0 and of_another_plane(owner, plane, false)
if refused then
  return refused
end
-- Reads first: the ids, each once, and what the sender needs of each job.
local ids, seen, hashes, blank, bytes, passed = {}, {}, {}, {}, 0, 0
for place = #line, 1, -1 do
  local id = line[place]
  if not seen[id] then -- an id that waits twice is taken once
    local key = prefix .. id
    local fields = redis.pcall("HMGET", key, "data", "attemptsMade", "opts")
    local data, attempts, opts = fields[1], fields[2], fields[3]
    bytes = bytes + (data and #data or 0)
    if data and #ids > 0 and bytes > tonumber(max_bytes) then
      break
    end
    seen[id] = true
    ids[#ids + 1] = id
    if fields.err then
      taken[#ids] = {id, false}
    elseif not data and redis.call("EXISTS", key) == 0 then
      taken[#ids] = {id, {}}
    else
      taken[#ids] = {id, data and {"attemptsMade", attempts or "0", "data", data} or {"attemptsMade", attempts or "0"}}
      local lane = opts and string.match(opts, '"lane":"(%d+/%d+)"')
      if lane then
        local found = taken[#ids][2]
        found[#found + 1], found[#found + 2] = "lane", lane
      end
      hashes[#hashes + 1] = key
      if not opts then
        blank[#blank + 1] = key
      end
    end
  end
  passed = passed + 1
end
if #ids > 0 then
  local failures = redis.call("HMGET", counted, unpack(ids))
  -- A call that was cut may have left an id in two lists. The id in `wait` is the valid one.
  local here, sets = among(active, 0, -1), {}
  if redis.call("EXISTS", priority, delayed, failed) > 0 then
    for _, set in ipairs({priority, delayed, failed}) do
      if redis.call("ZCARD", set) > 0 then
        sets[#sets + 1] = set
      end
    end
  end
  redis.call("HLEN", account) -- read here: a key of another type stops the script before its first write
  redis.call("SREM", stalled, unpack(ids)) -- first: Redis out of memory refuses a script whose first write needs memory
  for number, known in ipairs(failures) do
    if known then
      forget_failure(account, counted, ids[number], "queued")
    end
  end
  for _, id in ipairs(ids) do
    redis.call("SET", prefix .. id .. ":lock", token, "PX", lock_ms)
    if here[id] then
      redis.call("LREM", active, 0, id)
    end
  end
  for _, key in ipairs(blank) do
    redis.call("HSETNX", key, "opts", "{}")
  end
  redis.call("LPUSH", active, unpack(ids)) -- Order: when the jobs are locked, and before they leave `wait`
  redis.call("LTRIM", wait, 0, -passed - 1)
  for _, set in ipairs(sets) do
    redis.call("ZREM", set, unpack(ids))
  end
  for _, key in ipairs(hashes) do
    redis.call("HSET", key, "processedOn", now_ms)
  end
end
local messages = {}
for number, id in ipairs(ids) do
  messages[number] = {prefix .. "active@" .. token, id}
end
if tell == "1" and #taken == 0 then
  messages[1] = {prefix .. "drained", ""}
end
publish(messages)
return taken
