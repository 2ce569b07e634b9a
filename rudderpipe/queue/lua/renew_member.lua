--[[
  renew_member: keep a manager of senders in the list of members, or remove it, and return the list.

  One script, because a manager that is added twice would get two shares of the queues.

  KEYS[1] members   ZSET    "<since_ms> <lease_ms> <name> <profile>" by the moment when it lapses; expires with the last
                    member

  ARGV[1] name      string  the caller's name, without blanks
  ARGV[2] profile     string  what the other managers must know of it
  ARGV[3] lease_ms  integer how long it stays a member unless it calls again; 0 to leave the list

  Returns   {now, the members}, with milliseconds since 1970 of the clock of Redis, because those of the hosts differ
  Promises  a member that calls in time keeps the moment at which it became one; members that have lapsed are removed,
            at the latest its own lease_ms after this call, also when the clock was set back or is another server's now
  Costs     O(members)
  Same as   nothing in Bull
]]
local members = KEYS[1]
local name, profile, lease_ms = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call("ZREMRANGEBYSCORE", members, "-inf", now_ms)
local since_ms, known = string.format("%.0f", now_ms), {}
local found = redis.call("ZRANGE", members, 0, -1, "WITHSCORES")
for place = 1, #found, 2 do
  local member, lapses_ms = found[place], tonumber(found[place + 1])
  local since, lease, other = string.match(member, "^(%d+) (%d+) (%S+) ")
  if other == name then
    since_ms = tonumber(since) < tonumber(since_ms) and since or since_ms
    known[#known + 1] = member
  elseif lease and lapses_ms - now_ms > tonumber(lease) then -- the clock was ahead when this was written
    redis.call("ZADD", members, now_ms + lease, member)
  end
end
local own = since_ms .. " " .. lease_ms .. " " .. name .. " " .. profile
if tonumber(lease_ms) > 0 then
  redis.call("ZADD", members, now_ms + lease_ms, own)
end
for _, member in ipairs(known) do
  if member ~= own or tonumber(lease_ms) == 0 then
    redis.call("ZREM", members, member)
  end
end
local last = redis.call("ZRANGE", members, -1, -1, "WITHSCORES")
if last[2] then
  redis.call("PEXPIREAT", members, string.format("%.0f", last[2]))
end
return {now_ms, redis.call("ZRANGE", members, 0, -1)}
