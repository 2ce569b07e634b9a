--[[
  set_paused: pause or resume the queue for all its senders, also those of other SDKs.

  One script, because a job that is added between two commands could go to the list that is given up.

  KEYS[1] wait      LIST    ids of waiting jobs, the next one at the tail; all move to paused, or come from there
  KEYS[2] paused    LIST    used instead of wait while the queue is paused
  KEYS[3] meta      STRING  exists while the queue is paused; created or deleted
  KEYS[4] newer     HASH    what BullMQ reads instead of meta; its field paused is set or deleted

  ARGV[1] prefix    string  "{rudder}:rudderEventsQueue:", in front of every job key
  ARGV[2] pauses    integer 1 to pause, 0 to resume

  Returns   1, or 0 when the queue was paused, or was not, already
  Promises  the line keeps its order. Ids that another program has left in the list that was not in use are kept: those
            in wait go behind those in paused. A call that is cut leaves the queue paused, and a resume repairs it
  Costs     O(1), or O(jobs) when both lists have ids
  Same as   Bull 4.16.5 pause-5; unlike it, the ids in the list that takes the place of the other are not deleted
]]
local wait, paused, meta, newer = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix, pauses = ARGV[1], ARGV[2]
-- include: among
-- include: next_in_line
-- include: publish

local was = redis.call("EXISTS", meta)
local source, target = paused, wait
if pauses == "1" then
  source, target = wait, paused
  redis.call("SET", meta, "1") -- Order: before the ids move, because without it no program looks into `paused`
  redis.call("HSET", newer, "paused", "1")
end
if redis.call("EXISTS", target) == 0 then
  if redis.call("EXISTS", source) == 1 then
    redis.call("RENAME", source, target)
  end
else
  local pieces = math.ceil(redis.call("LLEN", source) / 1000)
  for _ = 1, pieces do
    if pauses == "1" then
      local piece, here, missing = redis.call("LRANGE", source, -1000, -1), among(target, 0, 4999), {}
      for place = #piece, 1, -1 do
        if not here[piece[place]] then -- else a call that was cut left it there
          missing[#missing + 1] = piece[place]
        end
      end
      if #missing > 0 then
        redis.call("LPUSH", target, unpack(missing))
      end
      redis.call("LTRIM", source, 0, -1001)
    else
      next_in_line(target, redis.call("LRANGE", source, 0, 999))
      redis.call("LTRIM", source, 1000, -1)
    end
  end
end
if pauses == "0" then
  redis.call("DEL", meta) -- Order: after the ids have moved, as above
  redis.call("HDEL", newer, "paused")
end
local event = pauses == "1" and "paused" or "resumed"
publish({{prefix .. event, event}})
return was == tonumber(pauses) and 0 or 1
