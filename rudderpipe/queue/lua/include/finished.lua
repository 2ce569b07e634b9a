-- Return the message about a finished job, in JSON. Same as Bull, slashes are not escaped.
local function finished(id, value)
  local function text(what)
    return (string.gsub(cjson.encode(what), "\\/", "/"))
  end
  return '{"jobId":' .. text(id) .. ',"val":' .. text(value) .. "}"
end
