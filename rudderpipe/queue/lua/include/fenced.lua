-- A sender that has lost its lease changes nothing any more: the error to answer, or nil.
local function fenced(lease, fence)
  if fence ~= "" and redis.call("GET", lease) ~= fence then
    return redis.error_reply("LEASELOST another sender may have the queue")
  end
end
