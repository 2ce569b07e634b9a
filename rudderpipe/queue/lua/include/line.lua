-- Return the list in which jobs wait: `paused` while the queue is paused, else `wait`.
local function line_of(wait, paused, meta)
  if redis.call("EXISTS", meta) == 1 then
    return paused
  end
  return wait
end
