-- One atomic step of one task's status. Called by documents.py, once per status that the tracker writes.
--
-- KEYS[1]  ts:ollama:<task id>   the status document, a JSON string with a TTL
-- ARGV[1]  the new document up to its last two values, the attempt and lost_after_ms
-- ARGV[2]  the attempt it belongs to; 0 claims the id: the attempt after the one that has ended
-- ARGV[3]  the rank of its stage: 0 queued, 1 forwarding, 2 streaming, 3 final
-- ARGV[4]  TTL in seconds
-- ARGV[5]  "boot" of the writing process, ARGV[6] created_ms: together they name the request that writes
-- ARGV[7]  the owner, the name of the API key; '' for none
-- ARGV[8]  how many milliseconds the task may now be silent before anybody may call it lost, by this server's clock
-- ARGV[9]  SHA-1 of a text that the caller has found to be no document, so that it does not stand in the way; '' for none
--
-- Returns {1, attempt, now} where it was written (or the very same final status stood there), with a further 1 where
-- what it replaced was malformed; {0, attempt of the document that stays, now, that document, its SHA-1} where not. Now
-- is 0 for an end that is no claim, else Unix ms by this server's clock. Whether what stays is a document at all is for the caller to say (gateway/document.py); here only
-- so much of it is believed as has the right type.
-- A final status never changes, a rank never falls, an attempt never comes back after a later one nor is it another
-- request's, and an id that is in flight, or another owner's, cannot be claimed.

local MAX_ATTEMPT = 2147483648 -- task.MAX_ATTEMPT: there the count stays
local MAX_BYTES = 1048576 -- no document of anybody's is longer
local ranks = { queued = 0, forwarding = 1, streaming = 2 }
local ENDED = ',"lost_after_ms":null}}'
-- How the document of a task in flight ends, as this process writes it; a longer end is none of its own.
local RUNNING, RUNNING_BYTES = '"boot":"([^"]*)","owner":[^,]*,"attempt":(%d+),"lost_after_ms":%d+}}$', 400
local attempt, rank = tonumber(ARGV[2]), tonumber(ARGV[3])
local now = 0
if rank < 3 or attempt == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function write(number, is_over_malformed)
  local tail = rank == 3 and ENDED or ',"lost_after_ms":' .. now + ARGV[8] .. '}}'
  redis.call('SET', KEYS[1], ARGV[1] .. number .. tail, 'EX', ARGV[4])
  return { 1, number, now, is_over_malformed and 1 or nil }
end

-- What is missing, or no document of anybody's, does not stand in the way.
local stored = redis.pcall('GET', KEYS[1])
if not stored then
  return write(math.max(attempt, 1))
end
if type(stored) ~= 'string' or #stored > MAX_BYTES or (ARGV[9] ~= '' and redis.sha1hex(stored) == ARGV[9]) then
  return write(math.max(attempt, 1), true)
end

-- The end of a request that is in flight follows any stage of it, which need not be looked for.
if rank == 3 and attempt > 0 then
  local stored_boot, stored_attempt = string.match(stored, RUNNING, -RUNNING_BYTES)
  local is_same_moment = string.find(stored, '"created_ms":' .. ARGV[6] .. ',', 1, true)
  if stored_boot == ARGV[5] and tonumber(stored_attempt) == attempt and is_same_moment then
    return write(attempt)
  end
end

local is_document, document = pcall(cjson.decode, stored)
if not is_document or type(document) ~= 'table' or type(document.extensions) ~= 'table' then
  return write(math.max(attempt, 1), true)
end

local extensions = document.extensions
local stored_attempt = extensions.attempt
local is_number = type(stored_attempt) == 'number' -- NaN and fractions are numbers, too
if not is_number or not (stored_attempt >= 1 and stored_attempt <= MAX_ATTEMPT) or stored_attempt % 1 ~= 0 then
  return write(math.max(attempt, 1), true)
end
local stored_rank = ranks[document.stage] or 3
local is_ours = extensions.boot == ARGV[5] and tonumber(extensions.created_ms) == tonumber(ARGV[6])

local function refuse()
  return { 0, stored_attempt, now, stored, redis.sha1hex(stored) }
end

if attempt == 0 then
  local owner = extensions.owner
  local is_foreign = type(owner) == 'string' and owner ~= '' and ARGV[7] ~= '' and owner ~= ARGV[7]
  if is_ours then
    attempt = stored_attempt
  elseif stored_rank == 3 and not is_foreign then
    return write(math.min(stored_attempt + 1, MAX_ATTEMPT))
  else
    return refuse()
  end
end
-- Attempts begin again at 1 where a document was evicted, or never came: an equal one may be another request's.
if attempt < stored_attempt or (attempt == stored_attempt and not is_ours and extensions.boot) then
  return refuse()
end
if attempt == stored_attempt and stored == ARGV[1] .. attempt .. ENDED then
  return { 1, attempt, now }
end
if attempt == stored_attempt and (stored_rank == 3 or rank < stored_rank) then
  return refuse()
end
return write(attempt)
