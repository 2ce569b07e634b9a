--[[
  recover_active: the jobs that a dead sender left active are first in line again, oldest first, attempts at 0.

  One script, because a job between `active` and `wait` would be in neither.

  KEYS[1] wait      LIST    ids of waiting jobs, next at the tail; gains those ids at the tail
  KEYS[2] paused    LIST    takes the place of wait while the queue is paused
  KEYS[3] meta      STRING  exists while the queue is paused; read
  KEYS[4] active    LIST    ids of jobs being attempted, newest at the head; loses its head
  KEYS[5] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[6] lease     STRING  who is the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that takes over
  ARGV[3] max_jobs  integer at most so many in this call, 1 to 5000; newest first, so the last call moves the oldest
  ARGV[4] fence     string  the caller's lease; "" where several senders work

  Returns   how many were recovered; fewer than max_jobs when none is left
  Promises  only for the one sender of a queue: it takes locks away without asking
  Costs     O(max_jobs)
  Same as   rudder-sdk-node 3 createPersistenceQueue, which removes and adds the one active job in two steps
]]
local wait, paused, meta, active, stalled, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, token, max_jobs, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- include: line
-- include: among
-- include: next_in_line
-- include: publish
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local line = line_of(wait, paused, meta)
local left, messages = redis.call("LRANGE", active, 0, max_jobs - 1), {}
for number, id in ipairs(left) do
  redis.call("SREM", stalled, id)
  redis.call("DEL", prefix .. id .. ":lock")
  if redis.call("TYPE", prefix .. id).ok == "hash" then
    redis.call("HSET", prefix .. id, "attemptsMade", "0")
  end
  messages[number] = {prefix .. "waiting@" .. token, id}
end
next_in_line(line, left)
redis.call("LTRIM", active, #left, -1)
publish(messages)
return #left
