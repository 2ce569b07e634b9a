--[[
  seal_queue: let no flusher add events to the queue any more. Its jobs are delivered as before.

  One script, because a job that is added between the two commands would be neither before nor behind the seal.

  KEYS[1] sealed    STRING* "<generation> <id>"; created when missing
  KEYS[2] id        STRING* the last job's number; read

  ARGV[1] generation integer the queue's generation

  Returns   the seal, "<generation> <id>": a job with a higher number was added by a program that does not know the seal
  Promises  a queue is sealed once and for good
  Costs     O(1)
  Same as   nothing in Bull
]]
local sealed, id = KEYS[1], KEYS[2]
local generation = ARGV[1]

local last = redis.call("GET", id) or "0"
local seal = redis.call("GET", sealed)
if not seal then
  seal = generation .. " " .. last
  redis.call("SET", sealed, seal)
end
return seal
