-- Publish messages to Bull's listeners, after the last write. A refusal is ignored, so that a user without the right to
-- publish can still make every change.
local function publish(messages)
  for _, message in ipairs(messages) do
    redis.pcall("PUBLISH", message[1], message[2])
  end
end
