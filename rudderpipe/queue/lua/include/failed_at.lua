-- Whether a job is in the failed set since that moment. One that has failed again since is not what the caller saw.
local function failed_at(failed, id, failed_ms)
  local score = redis.call("ZSCORE", failed, id)
  return score and math.floor(tonumber(score)) == failed_ms
end
