-- Tell Bull's listeners, after the last write. A user without the right to publish changes as much as any other.
local function publish(messages)
  for _, message in ipairs(messages) do
    redis.pcall("PUBLISH", message[1], message[2])
  end
end
