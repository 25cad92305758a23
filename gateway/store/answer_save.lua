-- Writes parts of answers, each in one atomic step.
--
-- KEYS[1]  tsx:ollama:2:answers   KEYS[2] tsx:ollama:2:answer-bytes
-- ARGV[1]  how many bytes all answers together may have
-- ARGV[2…] FIELDS of each part: task id; owner, '' for none; generation; created_ms; head, '' for the one that is stored;
--          offset of the piece; the piece; '1' if nothing follows, else '0'; TTL in seconds
--
-- Returns {what became of each part, as in `Saved` (answers.py), keys that held something else}. A repeated call changes
-- nothing but the TTLs.
--
-- This script runs for every piece of every kept answer. So it copies as few long strings as it can.

local FIELDS = 9
local SWEPT, SWEPT_IN_NEED = 100, 1000
local most = tonumber(ARGV[1])

-- Adds the piece, but for what is stored already.
local function append(key, length, offset, piece)
  if length == offset then
    call('APPEND', key, piece)
  else
    call('APPEND', key, string.sub(piece, length - offset + 1))
  end
end

-- APPEND allocates up to twice of what it needs. A copy has the bytes alone, and the TTL.
local function compact(key)
  if call('COPY', key, COPY, 'REPLACE') == 1 then
    call('RENAME', COPY, key)
  end
end

-- Whether another gateway's request with this id is in flight: no other answer may take its place, whenever it began. An
-- answer that ended while its gateway was cut off from the store comes before its task's claim. The head says which
-- process wrote it.
local function is_in_flight_elsewhere(id, created, head)
  local text = text_at(DOCUMENT .. id)
  if type(text) ~= 'string' or string.find(text, '"created_ms":' .. created .. ',', 1, true) then
    return false
  end
  local document = decoded(text)
  local is_in_flight = document and document.rank < FINAL_RANK
  return is_in_flight and not string.find(head, '"name":"' .. tostring(document.boot) .. ':', 1, true)
end

-- `at` is the index of the part's first field. The numbers stay as the text that they came as, where that suffices.
local function save(at)
  local id, owner, generation, created, head = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local offset, piece, is_end, ttl = tonumber(ARGV[at + 5]), ARGV[at + 6], ARGV[at + 7] == '1', tonumber(ARGV[at + 8])

  local stored, older = answer_at(id), nil
  if stored and stored.generation ~= generation then
    if tonumber(stored.created) > tonumber(created) then
      return 'superseded'
    end
    stored, older = nil, stored
  end
  if stored and stored.is_dropped then
    return 'dropped'
  end
  local body, member = body_key(id, generation), id .. ' ' .. generation
  local length = call('STRLEN', body)
  if (head == '' and not stored) or length < offset then
    return 'missing'
  end
  if not stored and is_in_flight_elsewhere(id, created, head) then
    return 'superseded'
  end

  if older then
    forget(id, older.generation)
  end
  local text = head == '' and stored.text or generation .. ' ' .. created .. ' ' .. head
  local length_then = math.max(length, offset + #piece)
  local bytes = #text + length_then
  if not count(member, owner, bytes, ttl, most) then
    sweep(SWEPT_IN_NEED)
    if not count(member, owner, bytes, ttl, most) then
      bury(id, generation, created, ttl)
      return 'no_room'
    end
  end

  if head == '' then
    call('EXPIRE', answer_key(id), ttl)
  else
    call('SET', answer_key(id), text, 'EX', ttl)
  end
  if length_then > length then
    append(body, length, offset, piece)
  end
  if length_then > 0 then
    call('EXPIRE', body, ttl)
  end
  if is_end then
    compact(body)
  end
  return 'saved'
end

if call('EXISTS', ANSWERS, ANSWER_BYTES) == 1 then -- the other one was evicted
  forget_counts()
end
sweep(SWEPT)
local saved = {}
for at = 2, #ARGV, FIELDS do
  saved[#saved + 1] = save(at)
end
return { saved, malformed }
