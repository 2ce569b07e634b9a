-- Keep only the term of a ring that has ended well, for a day, because a late call to add its events may still arrive.
-- The ring is <account>:<epoch>. <account>:rings and <account>:added have its epoch.
local function leave_tombstone(ring)
  local term = redis.call("HGET", ring, "term") or "0"
  redis.call("DEL", ring)
  redis.call("HSET", ring, "term", term, "ended", "1")
  redis.call("PEXPIRE", ring, 24 * 3600 * 1000)
  local account, epoch = string.sub(ring, 1, -17), string.sub(ring, -16)
  redis.pcall("ZREM", account .. "rings", epoch)
  redis.pcall("HDEL", account .. "added", epoch)
end
