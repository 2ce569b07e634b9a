-- The list in which jobs wait: while the queue is paused, `paused` takes the place of `wait`.
local function line_of(wait, paused, meta)
  if redis.call("EXISTS", meta) == 1 then
    return paused
  end
  return wait
end
