--[[
  add_jobs: add jobs at the end of the line, and store the new offsets of the ring that they came from.

  One script, because a flusher killed between the two writes would add the same events again, or lose them.

  KEYS[1] id        STRING* the last job's number; grows by the number of jobs
  KEYS[2] wait      LIST*   ids of waiting jobs, the next one at the tail; gains the new ids at the head
  KEYS[3] paused    LIST*   used instead of wait while the queue is paused
  KEYS[4] meta      STRING* exists while the queue is paused; read
  KEYS[5] ring      HASH*   tenure of a block -> events added, and term; gains the new offsets; created when missing
  KEYS[6] account   HASH*   events over all rings; field queued grows
  KEYS[7] counted   HASH*   failed job -> events; deleted when the numbers of the jobs start again
  KEYS[8] owner     STRING* the data plane that the queue's jobs are for; created, or changed when there is no job
  KEYS[9] active    LIST*   ids of jobs being attempted; counted
  KEYS[10] delayed  ZSET*   jobs that wait until a time; counted
  KEYS[11] failed   ZSET*   failed jobs; counted
  KEYS[12] sealed   STRING* "<generation> <id>", exists when the queue takes no more events; read
  KEYS[13] added    HASH*   epoch of a ring -> its events that the account has counted; the number grows

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the id that Bull's listeners see as the producer
  ARGV[3] now_ms    integer milliseconds since 1970, the flusher's clock
  ARGV[4] keep_ms   integer how long the ring's hash is kept after its last use, milliseconds
  ARGV[5] marks     msgpack list of (tenure, from, to): these jobs hold the events from..to of that tenure of a block
  ARGV[6] freed     msgpack list of tenures whose blocks are free again, so that their offsets may be deleted
  ARGV[7] jobs      msgpack list of (data, events) or (data, events, lane), oldest first, at most 1100
  ARGV[8] term      integer higher than the term of every call whose answer is unknown, by any flusher of the ring
  ARGV[9] plane     string  the caller's data plane; "" when it is not given

  Returns   {first id, last id}. {false, tenure, events, ...}, and nothing is changed, when Redis has more than `from`
            events of a tenure, because an earlier call had run although its answer was lost. (When Redis has fewer,
            it lost its last writes and their jobs, and the flusher's events are added.) {false, 0, term} for a late
            call of an earlier term, whose caller has died or given the call up. {false, -1, generation} when the queue
            is sealed. The error OTHERPLANE when the queue has jobs for another data plane. The error RINGENDED when the
            ring has ended
  Promises  no event of a ring is in two jobs, even if its flusher dies many times
  Costs     O(jobs + marks), plus the size of the jobs
  Same as   Bull 4.16.5 addJob-6 for each job, without custom id, delay, priority and debounce
]]
local id, wait, paused, meta, ring, account, counted, owner, active, delayed, failed, sealed, added =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local prefix, token, now_ms, keep_ms, marks, freed = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local jobs, term, plane = ARGV[7], ARGV[8], ARGV[9]
local epoch = string.sub(ring, -16)

-- include: line
-- include: of_another_plane
-- include: count
-- include: publish
-- include: late_for

local behind = {false}
local late = late_for(ring, term)
if late then
  return late
end
local seal = redis.call("GET", sealed)
if seal then
  return {false, -1, tonumber(string.match(seal, "^%d+") or "0")}
end
marks = cmsgpack.unpack(marks)
for _, mark in ipairs(marks) do
  local known = tonumber(redis.call("HGET", ring, mark[1]) or "0") or 0
  if known > mark[2] then
    behind[#behind + 1] = mark[1]
    behind[#behind + 1] = known
  end
end
if #behind > 1 then
  return behind
end

local there = redis.call("LLEN", wait) + redis.call("LLEN", paused) + redis.call("LLEN", active)
  + redis.call("ZCARD", delayed) + redis.call("ZCARD", failed)
for _, hash in ipairs({account, counted, added}) do
  redis.call("HLEN", hash) -- read here: a key of another type stops the script before its first write
end
for _, text in ipairs({id, meta}) do
  redis.call("GET", text)
end
local refused = of_another_plane(owner, plane, there == 0)
if refused then
  return refused
end

local line = line_of(wait, paused, meta)
local opts = '{"attempts":1,"delay":0,"timestamp":' .. now_ms
jobs = cmsgpack.unpack(jobs)
if (tonumber(redis.call("GET", id) or "0") or 0) == 0 then -- the first job ever, or the first after Bull's obliterate
  redis.call("DEL", counted)
end
local last = redis.call("INCRBY", id, #jobs)
local ids, events, messages = {}, 0, {}
for number, job in ipairs(jobs) do
  local job_id = string.format("%.0f", last - #jobs + number)
  redis.call("HSET", prefix .. job_id, "name", "__default__", "data", job[1],
    "opts", job[3] and opts .. ',"lane":"' .. job[3] .. '"}' or opts .. "}", "timestamp", now_ms, "delay", "0", "priority", "0")
  ids[number] = job_id
  events = events + job[2]
  messages[number] = {prefix .. "waiting@" .. token, job_id}
end

-- Order: offsets and ids are two writes, and either both or none must be made. So all other writes that Redis may
-- refuse come first (for the counts, adding 0), and the old offsets are restored if the ids are refused.
count(account, "queued", 0)
count(ring, "queued", 0)
for _, key in ipairs({ring, account}) do
  if not redis.call("HGET", key, "added") then -- a hash that an earlier version made
    local known = 0
    for _, field in ipairs({"queued", "delivered", "failed", "removed", "elsewhere"}) do
      known = known + (tonumber(redis.call("HGET", key, field) or "0") or 0)
    end
    redis.call("HSET", key, "added", string.format("%.0f", known))
  end
end
redis.call("PEXPIRE", ring, keep_ms)
for _, sequence in ipairs(cmsgpack.unpack(freed)) do
  redis.call("HDEL", ring, sequence)
end
local function store(fields) -- in parts, because Lua can pass only about 8,000 values in one call
  for first = 1, #fields, 4000 do
    redis.call("HSET", ring, unpack(fields, first, math.min(first + 3999, #fields)))
  end
end
local before, after = {"term", term}, {"term", term}
for _, mark in ipairs(marks) do
  before[#before + 1], after[#after + 1] = mark[1], mark[1]
  before[#before + 1], after[#after + 1] = redis.call("HGET", ring, mark[1]) or "0", mark[3]
end
store(after)
if #ids > 0 then
  local pushed = redis.pcall("LPUSH", line, unpack(ids))
  if type(pushed) == "table" then
    store(before)
    return pushed
  end
end
count(account, "added", events)
local of_ring = count(ring, "added", events)
for _, key in ipairs({ring, account}) do
  count(key, "queued", events)
end
if count(added, epoch, events) < of_ring then -- an earlier version counted the others
  redis.call("HSET", added, epoch, string.format("%.0f", of_ring))
end
publish(messages)
return {last - #jobs + 1, last}
