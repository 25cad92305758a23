-- How many bytes of answers are stored: each change of an answer is counted in the same step. layout.py puts it behind
-- answers.lua, which describes the keys.

local TOTAL, MAX_DIGITS = '@', 16
local RENEWED_EVERY = 60 -- seconds
local now = tonumber(call('TIME')[1])
local renewed_for = 0 -- seconds that the two keys live at least, as far as this call knows
local malformed = {} -- keys that held something else, and were deleted

local function forget_counts()
  call('DEL', ANSWERS, ANSWER_BYTES)
  renewed_for = 0
end

-- A total, from its text; 0 without one, nil if the text is no number.
local function total_of(text)
  text = text or '0'
  return #text <= MAX_DIGITS and string.find(text, '^%d+$') and tonumber(text) or nil
end

-- Forgets all counts because a total is no number: none of them can be trusted.
local function reject_counts()
  forget_counts()
  malformed[#malformed + 1] = ANSWER_BYTES
end

-- The bytes with which an answer was counted, and the owner, from their text.
local function counted_of(text)
  local bytes, owner = string.match(text or '', '^(%d+) (.*)$')
  if bytes and #bytes <= MAX_DIGITS then
    return tonumber(bytes), owner
  end
  return 0, ''
end

local function take_from_total(field, bytes)
  local total = total_of(call('HGET', ANSWER_BYTES, field))
  if not total then
    reject_counts()
  elseif total > bytes then
    call('HSET', ANSWER_BYTES, field, string.format('%d', total - bytes))
  else
    call('HDEL', ANSWER_BYTES, field)
  end
end

local function uncount(member)
  local bytes, owner = counted_of(call('HGET', ANSWER_BYTES, member))
  call('ZREM', ANSWERS, member)
  call('HDEL', ANSWER_BYTES, member)
  take_from_total(TOTAL, bytes)
  if owner ~= '' then
    take_from_total(TOTAL .. owner, bytes)
  end
end

local function renew_counts(ttl)
  if ttl <= renewed_for then
    return
  end
  renewed_for = ttl
  for _, key in ipairs({ ANSWERS, ANSWER_BYTES }) do
    if call('TTL', key) < ttl then
      call('EXPIRE', key, ttl + RENEWED_EVERY)
    end
  end
end

-- Counts an answer with `bytes` in all, whatever was counted before. Returns false, and changes nothing, if it grows and
-- all answers would have more than `most`, or those of its owner more than half of that. `ttl` is in seconds.
local function count(member, owner, bytes, ttl, most)
  local of_owner = TOTAL .. owner -- without an owner this is the total of all
  local found = call('HMGET', ANSWER_BYTES, member, TOTAL, of_owner)
  local before, owner_before = counted_of(found[1])
  local total, total_of_owner = total_of(found[2]), total_of(found[3])
  if not total or not total_of_owner or (found[1] and owner_before ~= owner) then
    if total and total_of_owner then
      uncount(member)
    else
      reject_counts()
    end
    return count(member, owner, bytes, ttl, most)
  end
  local growth = bytes - before
  total, total_of_owner = total + growth, total_of_owner + growth
  if growth > 0 and (total > most or (owner ~= '' and total_of_owner > most / 2)) then
    return false
  end
  if growth ~= 0 then
    call('HSET', ANSWER_BYTES, member, string.format('%d %s', bytes, owner))
    call('HSET', ANSWER_BYTES, TOTAL, string.format('%d', total), of_owner, string.format('%d', total_of_owner))
  end
  call('ZADD', ANSWERS, string.format('%d', now + ttl), member)
  renew_counts(ttl)
  return true
end

-- Stops counting answers that have expired, at most `at_once`.
local function sweep(at_once)
  for _, member in ipairs(call('ZRANGEBYSCORE', ANSWERS, '-inf', '(' .. now, 'LIMIT', 0, at_once)) do
    uncount(member)
  end
end

-- Deletes the body of an answer; its head stays.
local function forget(id, generation)
  call('DEL', body_key(id, generation))
  uncount(id .. ' ' .. generation)
end

-- Deletes an answer for good. The tombstone lives for `ttl` seconds; nil: for as long as the head would have.
local function bury(id, generation, created, ttl)
  forget(id, generation) -- first: if it meets a key of another type, the answer can still be found
  local text = generation .. ' ' .. created .. ' '
  if ttl then
    call('SET', answer_key(id), text, 'EX', ttl)
  else
    call('SET', answer_key(id), text, 'KEEPTTL')
  end
end
