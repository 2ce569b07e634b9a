-- Return the epoch in hexadecimal and the number of events of a job that came from a ring; nil for any other job.
local function made_by(data)
  local is_read, epoch, events = pcall(function()
    local inner = cjson.decode(cjson.decode(data).eventData)
    local digits = string.sub((string.gsub(inner.jobId, "-", "")), 1, 16)
    if string.find(inner.request.headers["user-agent"], "rudderpipe/", 1, true) == 1
      and string.find(digits, "^%x+$") and #digits == 16 then
      return digits, #inner.request.data.batch
    end
  end)
  if is_read then
    return epoch, events
  end
end
