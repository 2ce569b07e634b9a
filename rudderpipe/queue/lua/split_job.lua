--[[
  split_job: split an active job into its first half and a new job right behind it, both locked for the caller.

  One script, because between two commands the events of the second half would be in both jobs, or in none.

  KEYS[1] active    LIST    ids of jobs being attempted; gains the new id before the old one
  KEYS[2] id        STRING  the last job's number; grows by one
  KEYS[3] stalled   SET     ids suspected of being stalled; loses the old id
  KEYS[4] sealed    STRING  "<generation> <id>", exists when the queue takes no more events; the new id counts too
  KEYS[5] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the lock
  ARGV[3] lock_ms   integer how long both locks hold from now, milliseconds
  ARGV[4] job_id    string  the job
  ARGV[5] first     string  data with the first half of its events
  ARGV[6] second    string  data with the second half of its events
  ARGV[7] length    integer the size in bytes of the data that the caller has read
  ARGV[8] digest    string  the SHA-1 of that data, in hexadecimal
  ARGV[9] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   the new job's id; false, and nothing is changed, when another sender has the lock, when the job is not
            active or its key is not a hash, or when its data is not what the caller has read, for example because
            an earlier call had run although its answer was lost
  Promises  each event is in exactly one of the two, which are tried, counted and recovered in the order of the events
  Costs     O(active), plus the size of the job
  Same as   nothing in Bull
]]
local active, id, stalled, sealed, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local prefix, token, lock_ms, job_id, first, second, length, digest, fence =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
-- include: holder_of
-- include: own
-- include: among
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end
local key = prefix .. job_id
if not own(active, key .. ":lock", token, job_id) or redis.call("TYPE", key).ok ~= "hash"
  or not among(active, 0, -1)[job_id] then
  return false
end
local whole = redis.call("HGET", key, "data")
if not whole or #whole ~= tonumber(length) or redis.sha1hex(whole) ~= digest then
  return false
end
local generation, last = string.match(redis.call("GET", sealed) or "", "^(%d+) (%d+)$")
redis.call("SREM", stalled, job_id) -- first: Redis out of memory refuses a script whose first write needs memory
local new_id = string.format("%.0f", redis.call("INCR", id))
if last and (tonumber(job_id) or math.huge) <= tonumber(last) then -- the half is from before the seal, as the job is
  redis.call("SET", sealed, generation .. " " .. new_id)
end
local fields = redis.call("HGETALL", key)
for number = 1, #fields, 2 do
  redis.call("HSET", prefix .. new_id, fields[number], fields[number + 1])
end
redis.call("HSET", prefix .. new_id, "data", second)
for _, name in ipairs({job_id, new_id}) do
  redis.call("SREM", stalled, name)
  redis.call("SET", prefix .. name .. ":lock", token, "PX", lock_ms)
end
-- Order: the first half's data and the second half's place are two writes, and either both or none must be made.
redis.call("HSET", key, "data", first)
local placed = redis.pcall("LINSERT", active, "BEFORE", job_id, new_id)
if type(placed) == "table" then
  redis.call("HSET", key, "data", whole)
  return placed
end
publish({{prefix .. "active@" .. token, new_id}})
return new_id
