--[[
  retry_later: count an unsuccessful attempt, and keep the jobs locked while their sender waits.

  One script, because without the lock the counted attempt could be on another sender's job.

  KEYS[1] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[2] active    LIST    ids of jobs being attempted; read
  KEYS[3] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the locks
  ARGV[3] lock_ms   integer how long the locks hold from now, milliseconds
  ARGV[4] ids       msgpack list of ids
  ARGV[5] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   for each job 1, or 0 when another sender has its lock, when it is not active, or when its key is not a
            hash: nothing is changed then
  Promises  attemptsMade is the number of attempts of all senders
  Costs     O(ids), and O(active) for each id whose lock has expired
  Same as   Bull 4.16.5 extendLock-2, which counts nothing; unlike Bull's retryJob-7 the job stays active
]]
local stalled, active, lease = KEYS[1], KEYS[2], KEYS[3]
local prefix, token, lock_ms, ids, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
-- include: count
-- include: holder_of
-- include: own
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

local held = {}
for number, id in ipairs(cmsgpack.unpack(ids)) do
  local key = prefix .. id
  if not own(active, key .. ":lock", token, id) or redis.call("TYPE", key).ok ~= "hash" then
    held[number] = 0
  else
    redis.call("SREM", stalled, id) -- first: Redis out of memory refuses a script whose first write needs memory
    redis.call("SET", key .. ":lock", token, "PX", lock_ms)
    count(key, "attemptsMade", 1)
    held[number] = 1
  end
end
return held
