-- Return the error for a sender that has lost its lease, or nil. Such a sender must not change anything.
local function fenced(lease, fence)
  if fence ~= "" and redis.call("GET", lease) ~= fence then
    return redis.error_reply("LEASELOST another sender may have the queue")
  end
end
