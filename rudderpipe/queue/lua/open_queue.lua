--[[
  open_queue: store that senders may deliver from the queue, because all queues of the generation before it are drained.

  One script, because the type of its key is checked first.

  KEYS[1] opened    STRING* exists from now on

  ARGV[1] now_ms    integer milliseconds since 1970, the sender's clock

  Returns   1 when this call has opened the queue, 0 when it was open before
  Promises  an open queue stays open
  Costs     O(1)
  Same as   nothing in Bull
]]
local opened = KEYS[1]
local now_ms = ARGV[1]

return redis.call("SET", opened, now_ms, "NX") and 1 or 0
