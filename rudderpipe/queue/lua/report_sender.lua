--[[
  report_sender: store what a sender has done, for whatever shows the queue.

  One script, because the report, its end and the removal of old ones must not be three round trips.

  KEYS[1] reports   HASH    sender -> "<ms of the report> <report>"; lapses with the last report

  ARGV[1] sender    string  host and pid of the sender
  ARGV[2] report    string  its report
  ARGV[3] now_ms    number  the sender's time
  ARGV[4] lapse_ms  number  how long a report is kept

  Returns   1, or 0 when a later report of the sender is there
  Promises  no job is touched; the reports of senders that ended are removed after twice the lapse
  Costs     O(senders)
  Same as   nothing in Bull
]]
local reports = KEYS[1]
local sender, report, now_ms, lapse_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function written_ms(text)
  return tonumber(string.match(text, "^%d+") or "0")
end
local found = redis.call("HGETALL", reports)
for index = 1, #found, 2 do
  if found[index] == sender and written_ms(found[index + 1]) > tonumber(now_ms) then
    return 0
  end
  if written_ms(found[index + 1]) + 2 * lapse_ms < tonumber(now_ms) then
    redis.call("HDEL", reports, found[index])
  end
end
redis.call("HSET", reports, sender, now_ms .. " " .. report)
return redis.call("PEXPIRE", reports, lapse_ms)
