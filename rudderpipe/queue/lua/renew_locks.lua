--[[
  renew_locks: renew the lease, and the locks of jobs while their sender works on them.

  One script, because a lock that is read and then set could be another sender's by then.

  KEYS[1] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[2] active    LIST    ids of jobs being attempted; read
  KEYS[3] lease     STRING  the lease of the queue's one sender; its expiry is extended

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the locks
  ARGV[3] lock_ms   integer how long the locks hold from now, milliseconds
  ARGV[4] ids       msgpack list of ids
  ARGV[5] lease_ms  integer how long the lease holds from now, milliseconds
  ARGV[6] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   for each job 1, or 0 when another sender has its lock or it is not active: nothing is changed then
  Promises  a lock is never taken from another sender, and only active jobs are locked
  Costs     O(ids), and O(active) for each id whose lock has expired
  Same as   Bull 4.16.5 extendLock-2; unlike it, a lock that only expired is taken again while the job is active
]]
local stalled, active, lease = KEYS[1], KEYS[2], KEYS[3]
local prefix, token, lock_ms, ids, lease_ms, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- include: holder_of
-- include: own
-- include: fenced

local lost = fenced(lease, fence)
if lost then
  return lost
end

if fence ~= "" then
  redis.call("PEXPIRE", lease, lease_ms)
end
local held = {}
for number, id in ipairs(cmsgpack.unpack(ids)) do
  local lock = prefix .. id .. ":lock"
  if not own(active, lock, token, id) then
    held[number] = 0
  else
    redis.call("SREM", stalled, id) -- first: Redis out of memory refuses a script whose first write needs memory
    redis.call("SET", lock, token, "PX", lock_ms)
    held[number] = 1
  end
end
return held
