-- Reads one or more lists from one place on, newest first.
--
-- ARGV[1]  "+", or "(" and the place behind which to begin   ARGV[2] how many places of each list   ARGV[3…] their names
-- Returns {1 where nothing is missing in any of them, else 0; places of all of them, a list each; keys whose
-- scores were wrong, and were put right}.

local AT_ONCE = 1000
local malformed = {}

-- Members sort by their bytes only where all scores are equal. False where more are wrong than one step puts right.
local function put_right(key)
  local is_wrong, is_right = false, true
  for _, range in ipairs({ { '-inf', '(0' }, { '(0', '+inf' } }) do
    local members = call('ZRANGEBYSCORE', key, range[1], range[2], 'LIMIT', 0, AT_ONCE)
    for _, member in ipairs(members) do
      call('ZADD', key, 0, member)
      is_wrong = true
    end
    is_right = is_right and #members < AT_ONCE
  end
  if is_wrong then
    malformed[#malformed + 1] = key
  end
  return is_right
end

-- Whether the list is known to have been begun: if it is not there, Redis evicted it. A name in `labels` may have
-- outlived its set.
local function is_named(names, name)
  local score = call('ZSCORE', names, name)
  return score and (names == LISTS or tonumber(score) >= now)
end

local is_complete = true
local found = {}
for n = 3, #ARGV do
  local key = PREFIX .. ARGV[n]
  local names = string.sub(ARGV[n], 1, 6) == 'label:' and LABELS or LISTS
  is_complete = put_right(key) and is_complete and call('ZSCORE', names, COMPLETE)
  if not call('ZSCORE', key, COMPLETE) then
    local was_begun = is_named(names, ARGV[n]) or call('EXISTS', key) == 1
    is_complete = is_complete and not was_begun
  end
  found[#found + 1] = call('ZRANGE', key, ARGV[1], '[0', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[2])
end
return { is_complete and 1 or 0, found, malformed }
