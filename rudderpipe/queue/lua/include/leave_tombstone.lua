-- Keep only the term of a ring that has ended well, and how many events were added, for a day: a late call to add its
-- events may still arrive, and a flusher whose call to end the ring had no answer looks for lost events once more.
-- The ring is <account>:<epoch>. <account>:rings and <account>:added have its epoch.
local function leave_tombstone(ring)
  local kept = redis.call("HMGET", ring, "term", "added")
  redis.call("DEL", ring)
  redis.call("HSET", ring, "term", kept[1] or "0", "added", kept[2] or "0", "ended", "1")
  redis.call("PEXPIRE", ring, 24 * 3600 * 1000)
  local account, epoch = string.sub(ring, 1, -17), string.sub(ring, -16)
  redis.pcall("ZREM", account .. "rings", epoch)
  redis.pcall("HDEL", account .. "added", epoch)
end
