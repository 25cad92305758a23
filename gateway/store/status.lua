-- Writes statuses: each document, and its place in the lists, in one atomic step.
--
-- KEYS[n]  ts:ollama:<task id>, the status document of record n: a JSON string with a TTL; the last is that of `lists`
-- ARGV[1]  "boot" of the process that writes   ARGV[2] TTL of the lists in seconds
-- ARGV[3…] FIELDS of each record: the document, but up to its last two values, the attempt and lost_after_ms, where it
--          is not of an end or claims the id; attempt (0 claims the id: the attempt after the one that has ended; -1 - n
--          does so only after the attempt n); rank of its stage; state; created_ms in 13 digits; owner, '' for none; TTL of the
--          document in seconds; how many ms the task may be silent before it counts as lost; what the gateway expects
--          under the key: '-' nothing, '' a document, or the SHA-1 of a malformed text; label, '' for none
--
-- Returns for each record: its attempt if it was written, or if the same end is stored already; {attempt, 'malformed'}
-- if it replaced a malformed text, {attempt, 'presumed'} if this same request was presumed lost there;
-- {attempt, document, its SHA-1} if the stored document stays. A repeated call changes nothing. The
-- rules are those of `verdict` in gateway/tasks/stages.py.
--
-- This script runs for every request. Redis hashes each byte of each new string, and formats numbers slowly. So the
-- common cases make few strings, above all few long ones, and leave numbers as the text that they came as.

local FIELDS, NOTHING, MINUS = 10, '-', 45
local MOST_BEHIND = 110 -- bytes that a document has behind its label and the name of the next value
local boot, lists_ttl = ARGV[1], tonumber(ARGV[2])

-- How an owner or a label stands in a document.
local function quoted(text)
  return text == '' and 'null' or '"' .. string.gsub(text, '["\\]', '\\%0') .. '"'
end

-- As `decoded`, for a document that this request has written under `attempt` while in flight; nil if it may be another.
-- It compares texts, at a fraction of the cost: nearly every document that is replaced is of this kind.
local function own(text, attempt, created, owner, label)
  local names = '"boot":"' .. boot .. '","owner":' .. quoted(owner) .. ',"label":' .. quoted(label) .. ',"queue_position":'
  local _, names_end = string.find(text, names, -#names - MOST_BEHIND, true)
  local last = '^[%dnul]+,"queue_length":[%dnul]+,"attempt":' .. attempt .. ',"lost_after_ms":%d+}}$'
  local is_own = names_end
    and string.find(text, last, names_end + 1)
    and string.find(text, '"created_ms":' .. string.format('%d', created) .. ',', 1, true)
  local from = is_own and string.find(text, '"state":"', 1, true)
  local state, stage = string.match(text, '^"state":"(%u+)","stage":"(%l+)"', from or #text)
  if STATES[state] and RANKS[stage] then
    return {
      attempt = tonumber(attempt),
      rank = RANKS[stage],
      state = state,
      boot = boot,
      created = created,
      owner = owner,
      label = label,
    }
  end
end

-- The attempt under which a record is written; nil if the stored document stays.
local function verdict(stored, is_ours, attempt, seen, rank, owner)
  if not stored then
    return math.max(attempt, 1)
  end
  if attempt == 0 and not is_ours then
    local is_foreign = stored.owner ~= '' and owner ~= '' and stored.owner ~= owner
    local is_free = stored.rank == FINAL_RANK and not is_foreign and (not seen or seen == stored.attempt)
    return is_free and math.min(stored.attempt + 1, MAX_ATTEMPT) or nil
  end
  attempt = attempt == 0 and stored.attempt or attempt
  if attempt ~= stored.attempt then
    return attempt > stored.attempt and attempt or nil
  end
  -- If a document was evicted, attempts begin again at 1. So an equal attempt may be another request's.
  local is_next = stored.presumed_until_ms or (stored.rank < FINAL_RANK and rank >= stored.rank)
  return is_ours and is_next and attempt or nil
end

-- Whether the stored document has the place in the lists of labels that the record has.
local function is_same_place(stored, created, owner, label)
  return stored.created == created and stored.owner == owner and stored.label == label
end

local has_cancels -- asked for at the first end of a task that was stored in flight: others cannot be cancelled
local replies = {}
for n = 1, #KEYS - 1 do
  local key = KEYS[n]
  local at = 3 + (n - 1) * FIELDS
  local id, head, attempt, rank = string.sub(key, #DOCUMENT + 1), ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local state, created, owner, ttl = ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local expected, label = ARGV[at + 8], ARGV[at + 9]
  local beat = rank < FINAL_RANK and string.format('%d', now_ms + ARGV[at + 7]) or nil
  local seen
  if string.byte(attempt) == MINUS then
    attempt, seen = '0', -1 - attempt
  end
  local document = not beat and attempt ~= '0' and head or nil -- else it depends on the attempt or the time
  local tail = document == nil and ',"lost_after_ms":' .. (beat or 'null') .. '}}'
  local first = attempt == '0' and '1' or attempt

  if expected == NOTHING and call('SET', key, document or head .. first .. tail, 'EX', ttl, 'NX') then
    enlist(id, created, state, owner, label, ttl, beat, lists_ttl)
    replies[n] = tonumber(first)
  else
    local text = text_at(key)
    local is_known = type(text) == 'string' and (#expected < 40 or redis.sha1hex(text) ~= expected)
    local stored = is_known and (own(text, attempt, created, owner, label) or decoded(text)) or nil
    local is_ours = stored and stored.boot == boot and stored.created == created
    local granted = verdict(stored, is_ours, tonumber(attempt), seen, rank, owner)

    if not granted and text ~= (document or head .. stored.attempt .. tail) then
      replies[n] = { stored.attempt, text, redis.sha1hex(text) }
    else
      if granted then -- else it is the same end again
        call('SET', key, document or head .. granted .. tail, 'EX', ttl)
      end
      if stored and (stored.created ~= created or stored.state ~= state or stored.owner ~= owner) then
        delist(id, stored.created, stored.state, stored.owner)
      end
      if stored and stored.label ~= '' and not is_same_place(stored, created, owner, label) then
        delist_label(id, stored.created, stored.owner, stored.label)
      end
      enlist(id, created, state, owner, label, ttl, beat, lists_ttl)
      if stored and not beat then
        call('ZREM', BEATS, id)
        if has_cancels == nil then
          has_cancels = call('EXISTS', CANCELS) == 1
        end
        if has_cancels then
          call('ZREM', CANCELS, request_name(id, created, boot))
        end
      end
      if stored and stored.presumed_until_ms then
        call('ZREM', PRESUMED, request_name(id, stored.created, stored.boot))
      end
      local attempt_now = granted or stored.attempt
      local replaced = text and not stored and 'malformed' or is_ours and stored.presumed_until_ms and 'presumed'
      replies[n] = replaced and { attempt_now, replaced } or attempt_now
    end
  end
end
return replies
