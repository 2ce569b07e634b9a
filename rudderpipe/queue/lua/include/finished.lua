-- Return the message about a finished job, in JSON. Same as Bull, slashes are not escaped.
local function finished(id, value)
  local function text(what)
    if string.find(what, "^[%w%-_.: ]*$") then
      return '"' .. what .. '"'
    end
    return (string.gsub(cjson.encode(what), "\\/", "/"))
  end
  return '{"jobId":' .. text(id) .. ',"val":' .. text(value) .. "}"
end
