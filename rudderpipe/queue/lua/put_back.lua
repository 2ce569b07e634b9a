--[[
  put_back: put the jobs that a stopping sender has not finished first in line again.

  One script, because between two commands a job would be in neither `active` nor `wait`.

  KEYS[1] wait      LIST    ids of waiting jobs, the next one at the tail; gains those ids at the tail
  KEYS[2] paused    LIST    used instead of wait while the queue is paused
  KEYS[3] meta      STRING  exists while the queue is paused; read
  KEYS[4] active    LIST    ids of jobs being attempted; loses those ids
  KEYS[5] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[6] lease     STRING  the lease of the queue's one sender; read

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender that holds the locks
  ARGV[3] ids       msgpack list of ids, in the order in which they should run
  ARGV[4] fence     string  the caller's lease, as its fencing token; "" where several senders work

  Returns   how many were put back; a job that another sender has locked is left alone
  Promises  no other job overtakes them, and their attempts stay counted
  Costs     O(ids + active)
  Same as   nothing in Bull; its workers leave such a job to the stalled check
]]
local wait, paused, meta, active, stalled, lease = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, token, ids, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

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

local line = line_of(wait, paused, meta)
local here, back, messages = among(active, 0, -1), {}, {}
ids = cmsgpack.unpack(ids)
for number = #ids, 1, -1 do
  local id = ids[number]
  local holder = holder_of(prefix .. id .. ":lock")
  if here[id] and (not holder or holder == token) then
    redis.call("SREM", stalled, id) -- first: Redis out of memory refuses a script whose first write needs memory
    redis.call("DEL", prefix .. id .. ":lock")
    back[#back + 1] = id
    messages[#messages + 1] = {prefix .. "waiting@" .. token, id}
  end
end
next_in_line(line, back)
for _, id in ipairs(back) do
  redis.call("LREM", active, -1, id)
end
publish(messages)
return #back
