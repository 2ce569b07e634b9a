-- The message about a finished job, in JSON; Bull's own encoder leaves slashes alone.
local function finished(id, value)
  local function text(what)
    return (string.gsub(cjson.encode(what), "\\/", "/"))
  end
  return '{"jobId":' .. text(id) .. ',"val":' .. text(value) .. "}"
end
