-- Kept answers: what every script that touches them begins with. layout.py puts it behind lists.lua, and behind
-- documents.lua where a script reads documents.
--
-- All keys are under PREFIX, and each has a TTL:
--   answer:<task id>              string "<generation> <created_ms> <head>" of the task's newest answer; without the head
--                                 once the answer was dropped: so no later part of it is taken
--   body:<task id> <generation>   string: the bytes of its body so far
--   answers                       sorted set of the answers that are counted, "<task id> <generation>"; score: the Unix
--                                 second after which the answer has expired
--   answer-bytes                  hash of the bytes that are stored: "<task id> <generation>" -> "<bytes> <owner>",
--                                 "@" -> those of all answers, "@<owner>" -> those of one owner; no field for 0 bytes
-- An answer counts with all of its two strings. What was dropped does not count.
-- Redis evicts keys as a whole. If `answers` or `answer-bytes` is gone, the other one is deleted, too: the totals are too
-- small then, until the answers that are not counted any more expire. An answer that is still written is counted again,
-- with all its bytes. If an answer is evicted, it counts until it would have expired.
-- Other programs may have put anything there: a text that is no head counts as none; if a total is no number, both keys
-- are deleted. A key of another type fails the script before it changes anything for this answer; answer_mend.lua deletes
-- the key, and the script is called again.

local TOTAL, MAX_DIGITS = '@', 16
local malformed = {} -- keys that held something else, and were deleted

local function answer_key(id)
  return ANSWER .. id
end

local function body_key(id, generation)
  return BODY .. id .. ' ' .. generation
end

-- The newest answer of a task; nil if there is none.
local function answer_at(id)
  local text = call('GET', answer_key(id)) or ''
  local generation, created, head_at = string.match(text, '^(%S+) (%d+) ()')
  if not generation or #created > 13 then
    return nil
  end
  return { generation = generation, created = created, text = text, head_at = head_at, is_dropped = head_at > #text }
end

-- -- how many bytes are stored --

local function forget_counts()
  call('DEL', ANSWERS, ANSWER_BYTES)
end

local function total_at(field)
  local text = call('HGET', ANSWER_BYTES, field) or '0'
  if #text <= MAX_DIGITS and string.find(text, '^%d+$') then
    return tonumber(text)
  end
  forget_counts()
  malformed[#malformed + 1] = ANSWER_BYTES
  return 0
end

local function add_to_total(field, bytes)
  local total = total_at(field) + bytes
  if total > 0 then
    call('HSET', ANSWER_BYTES, field, string.format('%d', total))
  else
    call('HDEL', ANSWER_BYTES, field)
  end
end

local function add_to_totals(owner, bytes)
  add_to_total(TOTAL, bytes)
  if owner ~= '' then
    add_to_total(TOTAL .. owner, bytes)
  end
end

-- The bytes with which an answer is counted, and the owner.
local function counted(member)
  local bytes, owner = string.match(call('HGET', ANSWER_BYTES, member) or '', '^(%d+) (.*)$')
  if bytes and #bytes <= MAX_DIGITS then
    return tonumber(bytes), owner
  end
  return 0, ''
end

local function uncount(member)
  local bytes, owner = counted(member)
  call('ZREM', ANSWERS, member)
  call('HDEL', ANSWER_BYTES, member)
  add_to_totals(owner, -bytes)
end

-- Counts an answer with `bytes` in all, whatever was counted before. `ttl` is in seconds.
local function count(member, owner, bytes, ttl)
  local before, owner_before = counted(member)
  if bytes ~= before or owner ~= owner_before then
    add_to_totals(owner_before, -before)
    add_to_totals(owner, bytes)
    call('HSET', ANSWER_BYTES, member, string.format('%d %s', bytes, owner))
  end
  call('ZADD', ANSWERS, string.format('%d', now + ttl), member)
  for _, key in ipairs({ ANSWERS, ANSWER_BYTES }) do
    if call('TTL', key) < ttl then
      call('EXPIRE', key, ttl + RENEWED_EVERY)
    end
  end
end

-- Whether an answer may have `bytes` in all: within `most`, and the answers of an owner within half of that.
local function fits(member, owner, bytes, most)
  local growth = bytes - counted(member)
  local function is_within(field, bound)
    return total_at(field) + growth <= bound
  end
  return growth <= 0 or (is_within(TOTAL, most) and (owner == '' or is_within(TOTAL .. owner, most / 2)))
end

-- -- deleting --

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
