--[[
  remove_jobs: delete failed jobs, on request or because the settings allow fewer.

  One script, because a job that is retried between two commands would be deleted while it waits.

  KEYS[1] failed    ZSET    failed jobs by time; loses those ids
  KEYS[2] account   HASH    events over all rings; failed becomes removed
  KEYS[3] counted   HASH    failed job -> "<epoch>:<events>" it was counted with; loses those ids

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] jobs      msgpack list of (id, failed ms), at most 1000

  Returns   {jobs, events} removed; a job that did not fail at that time, that has left the failed set, or that
            another program has locked is left alone
  Promises  deleted events are counted as removed, so that none disappears uncounted
  Costs     O(jobs)
  Same as   Bull 4.16.5 removeJob-11 for jobs in failed; unlike it, the other lists are not changed
]]
local failed, account, counted = KEYS[1], KEYS[2], KEYS[3]
local prefix, jobs = ARGV[1], ARGV[2]
-- include: failed_at
-- include: count
-- include: move_events
-- include: forget_failure

local removed, events = 0, 0
for _, job in ipairs(cmsgpack.unpack(jobs)) do
  local id, failed_ms = job[1], job[2]
  local key = prefix .. id
  if redis.call("EXISTS", key .. ":lock") == 0 and failed_at(failed, id, failed_ms) then
    redis.call("DEL", key .. ":logs") -- first: Redis out of memory refuses a script whose first write needs memory
    events = events + forget_failure(account, counted, id, "removed")
    redis.call("DEL", key)
    redis.call("ZREM", failed, id)
    removed = removed + 1
  end
end
return {removed, events}
