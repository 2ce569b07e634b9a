-- Publish messages to Bull's listeners, after the last write. A refusal is ignored, so that a user without the right to
-- publish can still make every change. The script does not ask first whether a listener exists, because the questions
-- (PUBSUB, and whether there are replicas or a cluster) cost as much as the messages of 50 jobs.
local function publish(messages)
  for _, message in ipairs(messages) do
    redis.pcall("PUBLISH", message[1], message[2])
  end
end
