-- Reads one or more lists, newest first, from a given place on.
--
-- ARGV[1]  "+", or "(" and the place after which to begin   ARGV[2] how many places of each list   ARGV[3…] their names
-- Returns {1 if no task is missing in any of them, else 0; one table of places per list; keys whose scores were wrong
-- and have been corrected}.

local malformed = {}

-- Sets scores that are not 0 to 0: members sort by their bytes only if all scores are equal.
local function put_right(key)
  local is_wrong = false
  for _, range in ipairs({ { '-inf', '(0' }, { '(0', '+inf' } }) do
    for _, member in ipairs(call('ZRANGEBYSCORE', key, range[1], range[2], 'LIMIT', 0, 1000)) do
      call('ZADD', key, 0, member)
      is_wrong = true
    end
  end
  if is_wrong then
    malformed[#malformed + 1] = key
  end
end

local is_complete = call('ZSCORE', LISTS, COMPLETE)
local found = {}
for n = 3, #ARGV do
  local key = PREFIX .. ARGV[n]
  put_right(key)
  if not call('ZSCORE', key, COMPLETE) then
    local was_begun = call('ZSCORE', LISTS, ARGV[n]) or call('EXISTS', key) == 1
    is_complete = is_complete and not was_begun
  end
  found[#found + 1] = call('ZRANGE', key, ARGV[1], '[0', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[2])
end
return { is_complete and 1 or 0, found, malformed }
