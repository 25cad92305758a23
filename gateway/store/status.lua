-- Writes statuses: each document, and its place in the lists, in one atomic step.
--
-- KEYS[n]  ts:ollama:<task id>, the status document of record n: a JSON string with a TTL; the last is that of `lists`
-- ARGV[1]  "boot" of the process that writes   ARGV[2] TTL of the lists in seconds
-- ARGV[3…] FIELDS of each record: task id; the document up to its last two values, the attempt and lost_after_ms;
--          attempt (0 claims the id: the attempt after the one that has ended); rank of its stage; state;
--          created_ms in 13 digits; owner, '' for none; TTL of the document in seconds; how many ms the task may be
--          silent before it counts as lost; SHA-1 of a stored text that the gateway found malformed, '' for none
--
-- Returns for each record: {1, attempt} if it was written, or if the same end is stored already; {1, attempt, 1} if it
-- replaced a malformed text; {0, attempt, document, its SHA-1} if the stored document stays. A repeated call changes
-- nothing. The rules are those of `verdict` in gateway/tasks/stages.py.

local FIELDS = 10
local boot, lists_ttl = ARGV[1], ARGV[2]

-- The attempt under which a record is written; nil if the stored document stays.
local function verdict(stored, is_ours, attempt, rank, owner)
  if not stored then
    return math.max(attempt, 1)
  end
  if attempt == 0 and not is_ours then
    local is_foreign = stored.owner ~= '' and owner ~= '' and stored.owner ~= owner
    local is_free = stored.rank == FINAL_RANK and not is_foreign
    return is_free and math.min(stored.attempt + 1, MAX_ATTEMPT) or nil
  end
  attempt = attempt == 0 and stored.attempt or attempt
  if attempt ~= stored.attempt then
    return attempt > stored.attempt and attempt or nil
  end
  -- If a document was evicted, attempts begin again at 1. So an equal attempt may be another request's.
  local is_next = is_ours and stored.rank < FINAL_RANK and rank >= stored.rank
  return is_next and attempt or nil
end

local has_cancels -- asked for at the first end of a task that was stored in flight: others cannot be cancelled
local replies = {}
for n = 1, #KEYS - 1 do
  local key = KEYS[n]
  local at = 3 + (n - 1) * FIELDS
  local id, head, attempt, rank = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local state, created, owner = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  local ttl, grace_ms, judged = ARGV[at + 7], ARGV[at + 8], ARGV[at + 9]

  local text = text_at(key)
  local stored
  if type(text) == 'string' and (judged == '' or redis.sha1hex(text) ~= judged) then
    stored = decoded(text)
  end
  local is_over_malformed = text and not stored
  local is_ours = stored and stored.boot == boot and stored.created == created
  local granted = verdict(stored, is_ours, attempt, rank, owner)
  local tail = rank < FINAL_RANK and now_ms + grace_ms or 'null'
  local document = head .. (granted or stored.attempt) .. ',"lost_after_ms":' .. tail .. '}}'
  local is_same = not granted and text == document -- the same end again

  if not granted and not is_same then
    replies[n] = { 0, stored.attempt, text, redis.sha1hex(text) }
  else
    if not is_same then
      call('SET', key, document, 'EX', ttl)
    end
    if stored and (stored.created ~= created or stored.state ~= state or stored.owner ~= owner) then
      delist(id, stored.created, stored.state, stored.owner)
    end
    enlist(id, created, state, owner, ttl, lists_ttl)
    if rank < FINAL_RANK then
      add(BEATS, now_ms + grace_ms, id, lists_ttl)
    elseif stored then
      call('ZREM', BEATS, id)
      if has_cancels == nil then
        has_cancels = call('EXISTS', CANCELS) == 1
      end
      if has_cancels then
        call('ZREM', CANCELS, boot .. ':' .. tonumber(created) .. ':' .. id)
      end
    end
    replies[n] = { 1, granted or stored.attempt, is_over_malformed and 1 or nil }
  end
end
return replies
