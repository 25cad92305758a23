-- Deletes the keys that hold another type than a sorted set: those are not ours, and in the way of a script.
--
-- ARGV  names of the lists that the script may touch, beside those in `lists` and `labels`
-- Returns the keys that are gone.

local gone = {}

local function mend(key)
  local kind = call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    call('DEL', key)
    gone[#gone + 1] = key
  end
end

for _, key in ipairs({ LISTS, EXPIRY, BEATS, PRESUMED, CANCELS, LABELS, LABEL_EXPIRY }) do
  mend(key)
end
for _, names in ipairs({ ARGV, call('ZRANGE', LISTS, 0, -1), call('ZRANGE', LABELS, 0, -1) }) do
  for _, name in ipairs(names) do
    mend(PREFIX .. name)
  end
end
return gone
