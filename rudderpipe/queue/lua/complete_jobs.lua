--[[
  complete_jobs: the data plane has these jobs' events; remove them.

  One script, because a job without a lock that is still in `active` would be sent again.

  KEYS[1] active    LIST    ids of jobs being attempted; loses those ids
  KEYS[2] stalled   SET     ids suspected of being stalled; loses those ids
  KEYS[3] account   HASH    events over all rings; queued becomes delivered

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] token     string  the sender whose locks they are
  ARGV[3] jobs      msgpack list of (id, epoch, events): epoch in hexadecimal, "" when no ring of ours made the job

  Returns   for each job 1, or 0 when another sender has its lock or it is not active: nothing is changed then
  Promises  each event is counted as delivered once
  Costs     O(jobs * active)
  Same as   Bull 4.16.5 moveToFinished-9 with removeOnComplete; unlike it, a lock that merely lapsed is no obstacle
]]
local active, stalled, account = KEYS[1], KEYS[2], KEYS[3]
local prefix, token, jobs = ARGV[1], ARGV[2], ARGV[3]

local done = {}
for number, job in ipairs(cmsgpack.unpack(jobs)) do
  local id, epoch, events = job[1], job[2], job[3]
  local key = prefix .. id
  local holder = redis.call("GET", key .. ":lock")
  if (holder and holder ~= token) or redis.call("LREM", active, -1, id) == 0 then
    done[number] = 0
  else
    redis.call("DEL", key, key .. ":lock", key .. ":logs")
    redis.call("SREM", stalled, id)
    if epoch ~= "" then
      redis.call("HINCRBY", account, "queued", -events)
      local ring = prefix .. "ring:" .. epoch
      if redis.call("EXISTS", ring) == 1 then
        local left = redis.call("HINCRBY", ring, "queued", -events)
        redis.call("HINCRBY", ring, "delivered", events)
        if left <= 0 and redis.call("HEXISTS", ring, "ended") == 1 then
          redis.call("DEL", ring)
        end
      end
    end
    redis.call("HINCRBY", account, "delivered", events)
    redis.call("PUBLISH", prefix .. "completed", '{"jobId":"' .. id .. '","val":"null"}')
    done[number] = 1
  end
end
return done
