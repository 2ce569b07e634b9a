--[[
  recover_active: put active jobs that no sender delivers first in line again, oldest first.

  One script, because between two commands a job would be in neither `active` nor `wait`.

  KEYS[1] wait      LIST    ids of waiting jobs, the next one at the tail; gains those ids at the tail
  KEYS[2] paused    LIST    used instead of wait while the queue is paused
  KEYS[3] meta      STRING  exists while the queue is paused; read
  KEYS[4] active    LIST    ids of jobs being attempted, the newest one at the head; loses those ids
  KEYS[5] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[6] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the caller's token, which is in its locks
  ARGV[3] max_jobs  integer the most jobs of this call, 1 to 5000; newest first, so the last call moves the oldest
  ARGV[4] keep      msgpack list of ids that the caller goes on delivering and that must stay active
  ARGV[5] whose     string  all: jobs under any lock, with attempts set to 0, as a dead sender left them; free: jobs
                            without a lock or locked under the token; ours: jobs locked under the token
  ARGV[6] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   {how many were recovered, how many of their locks another worker held}; when fewer than max_jobs were
            recovered, none is left
  Promises  no other job overtakes them. Only the one sender of a queue may use `all`, because it removes any lock
  Costs     O(max_jobs * active)
  Same as   rudder-sdk-node 3 createPersistenceQueue, which removes and adds the one active job in two steps
]]
local wait, paused, meta, active, stalled, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, token, max_jobs, keep, whose, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

-- include: line
-- include: holder_of
-- include: among
-- include: next_in_line
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local seen, left, broken = {}, {}, 0
for _, id in ipairs(cmsgpack.unpack(keep)) do
  seen[id] = true
end
for _, id in ipairs(redis.call("LRANGE", active, 0, 4999)) do
  local holder = holder_of(prefix .. id .. ":lock")
  if not seen[id] and #left < tonumber(max_jobs)
    and (whose == "all" or holder == token or (whose == "free" and not holder)) then
    seen[id] = true
    left[#left + 1] = id
    if holder and holder ~= token then
      broken = broken + 1
    end
  end
end
local line, messages = line_of(wait, paused, meta), {}
for number, id in ipairs(left) do
  redis.call("SREM", stalled, id)
  redis.call("DEL", prefix .. id .. ":lock")
  if whose == "all" and redis.call("TYPE", prefix .. id).ok == "hash" then
    redis.call("HSET", prefix .. id, "attemptsMade", "0")
  end
  messages[number] = {prefix .. "waiting@" .. token, id}
end
next_in_line(line, left)
for _, id in ipairs(left) do
  redis.call("LREM", active, 0, id)
end
publish(messages)
return {#left, broken}
