--[[
  remove_jobs: delete failed jobs, because somebody asked to or because more are kept than the settings allow.

  One script, because a job retried in between would be deleted while it waits.

  KEYS[1] failed    ZSET    failed jobs by time; loses those ids
  KEYS[2] account   HASH    events over all rings; failed becomes removed
  KEYS[3] counted   HASH    failed job -> "<epoch>:<events>" it was counted with; loses those ids

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] ids       msgpack list of ids, at most 1000

  Returns   {jobs, events} removed; a job that is not in the failed set or that somebody has locked is left alone
  Promises  what is deleted is counted as removed: no event is gone unseen
  Costs     O(ids)
  Same as   Bull 4.16.5 removeJob-11 for jobs in failed; unlike it the other lists are not touched
]]
local failed, account, counted = KEYS[1], KEYS[2], KEYS[3]
local prefix, ids = ARGV[1], ARGV[2]
-- include: count
-- include: move_events
-- include: forget_failure

local removed, events = 0, 0
for _, id in ipairs(cmsgpack.unpack(ids)) do
  local key = prefix .. id
  if redis.call("EXISTS", key .. ":lock") == 0 and redis.call("ZSCORE", failed, id) then
    events = events + forget_failure(account, counted, id, "removed")
    redis.call("DEL", key, key .. ":logs")
    redis.call("ZREM", failed, id)
    removed = removed + 1
  end
end
return {removed, events}
