-- Deletes keys of the lists that are no sorted sets. The gateway did not write them, and scripts fail on them.
--
-- ARGV  names of the lists that the script may touch
-- Returns the keys that it deleted.

local gone = {}
local keys = { LISTS, EXPIRY, BEATS, CANCELS }
for n = 1, #ARGV do
  keys[#keys + 1] = PREFIX .. ARGV[n]
end
for _, key in ipairs(keys) do
  local kind = call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    call('DEL', key)
    gone[#gone + 1] = key
  end
end
return gone
