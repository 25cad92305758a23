-- Reads a page of one or more lists from one place on, newest first: places and documents, in one atomic step.
--
-- ARGV[1]  "+", or "(" and the place behind which to begin   ARGV[2] how many places   ARGV[3] bytes of documents after
--          which the page is cut   ARGV[4…] the names of the lists
-- Returns {
--   1 if no list lacks tasks, else 0;
--   this server's clock in Unix ms;
--   the keys whose scores were wrong, and were put right;
--   1 if the page was cut, else 0;
--   the places of all lists together;
--   for each place its document: nil if there is none, 0 if the key has another type
-- }.

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

-- Whether place `a` is before `b` on a page. Bytes are compared one by one: `<` depends on the server's locale.
local function is_newer(a, b)
  if a.ms and b.ms and a.ms ~= b.ms then
    return a.ms > b.ms
  end
  for n = 1, math.min(#a.place, #b.place) do
    local left, right = string.byte(a.place, n), string.byte(b.place, n)
    if left ~= right then
      return left > right
    end
  end
  return #a.place > #b.place
end

local function step(list)
  list.at = list.at + 1
  list.place = list.places[list.at]
  list.ms = list.place and tonumber(string.sub(list.place, 1, 13))
  return list
end

-- The first `most` places of lists, newest first, each once.
local function merged(lists, most)
  local left, places = {}, {}
  for _, found in ipairs(lists) do
    left[#left + 1] = found[1] and step({ places = found, at = 0 }) or nil
  end
  while #left > 0 and #places < most do
    local newest = 1
    for n = 2, #left do
      newest = is_newer(left[n], left[newest]) and n or newest
    end
    local list = left[newest]
    if list.place ~= places[#places] then
      places[#places + 1] = list.place
    end
    if not step(list).place then
      table.remove(left, newest)
    end
  end
  return places
end

local is_complete = true
local lists = {}
for n = 4, #ARGV do
  local key = PREFIX .. ARGV[n]
  local names = string.sub(ARGV[n], 1, 6) == 'label:' and LABELS or LISTS
  is_complete = put_right(key) and is_complete and call('ZSCORE', names, COMPLETE)
  if not call('ZSCORE', key, COMPLETE) then
    local was_begun = is_named(names, ARGV[n]) or call('EXISTS', key) == 1
    is_complete = is_complete and not was_begun
  end
  lists[#lists + 1] = call('ZRANGE', key, ARGV[1], '[0', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[2])
end
local places = #lists == 1 and lists[1] or merged(lists, tonumber(ARGV[2]))
local documents, size, most = {}, 0, tonumber(ARGV[3])
for n, place in ipairs(places) do
  local text = text_at(DOCUMENT .. string.sub(place, 15))
  documents[n] = type(text) == 'table' and 0 or text
  size = size + (type(text) == 'string' and #text or 0)
  if size > most and n < #places then
    return { is_complete and 1 or 0, now_ms, malformed, 1, { unpack(places, 1, n) }, documents }
  end
end
return { is_complete and 1 or 0, now_ms, malformed, 0, places, documents }
