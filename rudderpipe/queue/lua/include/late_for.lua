-- Return what is returned to a call of a ring that must change nothing: {false, 0, term} when Redis knows a later term,
-- because the call's sender has died or given it up, and an error when the ring has ended. Return nil for any other.
local function late_for(ring, term)
  local later = tonumber(redis.call("HGET", ring, "term") or "0") or 0
  if later > tonumber(term) then
    return {false, 0, later}
  end
  if redis.call("HEXISTS", ring, "ended") == 1 then
    return redis.error_reply("RINGENDED the ring has ended, and nothing can be added for it")
  end
end
