-- Bull tells of finished jobs in JSON; its own encoder leaves slashes alone.
local function publish_finished(channel, id, value)
  local function text(what)
    return (string.gsub(cjson.encode(what), "\\/", "/"))
  end
  redis.call("PUBLISH", channel, '{"jobId":' .. text(id) .. ',"val":' .. text(value) .. "}")
end
