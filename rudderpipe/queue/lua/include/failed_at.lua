-- Return true if the job failed at that moment and is still failed. A job that has failed again since then is
-- not the failure that the caller has read.
local function failed_at(failed, id, failed_ms)
  local score = redis.call("ZSCORE", failed, id)
  return score and math.floor(tonumber(score)) == failed_ms
end
