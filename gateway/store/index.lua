-- Keeps the order in which tasks are listed, and who is alive. Called by documents.py, once per batch of statuses
-- that are not all first and last words, and by store.py.
--
-- All keys share the slot of their {index} tag and live as long as the newest document; the clock is this server's.
-- KEYS[1]  tsx:ollama:{index}:all      sorted set, score 0, members "<created_ms, 13 digits>:<task id>"
-- KEYS[2]  tsx:ollama:{index}:entry    hash, task id -> "<attempt>:<rank>:<created_ms, 13 digits>[@<seen>]:<STATE>:<owner>"
-- KEYS[3]  tsx:ollama:{index}:expiry   sorted set of task ids, score: Unix second at which the document expires
-- KEYS[4]  tsx:ollama:{index}:beats    sorted set of the ids in flight, score: Unix ms after which each counts as lost
-- KEYS[5]  tsx:ollama:{index}:cancels  sorted set of "<boot>:<created_ms>:<task id>" to be cancelled (see watch.lua)
-- Like `all` there is a set per state, `<STATE>`, and for each owner `all@<owner>` and `<STATE>@<owner>`.
-- ARGV[1]  the prefix of these keys   ARGV[2] their TTL in seconds   ARGV[3] how many expired entries to forget
-- ARGV[4]  boot of the process whose tasks these are
-- ARGV[5..]  FIELDS per task: task id, attempt, rank, created_ms in 13 digits, state, owner, TTL of its document in
--            seconds, grace in ms, and seen: when its request was seen to hold the id, in Unix ms of 13 digits by this
--            server's clock; '' where transition.lua may have refused it
--
-- Scores are equal, so members sort by their bytes: by creation, then by id. An entry follows a later attempt, a higher
-- rank of the same one, and a request that was seen later than its own (attempts begin again at 1 where a document was
-- evicted, and gateways' clocks differ); the first end stays. Expired entries go a few at a time. May come late, and
-- again: what it tells of is then refused, or the same.
-- What stands in an entry's or a key's place and has not its shape counts as missing, and is replaced.
-- Returns {how many have gone, what was malformed, …}.

local FIELDS = 9
local MAX_ATTEMPT = 2147483648 -- task.MAX_ATTEMPT
local all, entry, expiry, beats, cancels = unpack(KEYS)
local prefix, ttl, sweep, boot = unpack(ARGV, 1, 4)
local call = redis.call
local time = call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(time[2] / 1000)
local touched = { [all] = true, [entry] = true, [expiry] = true, [beats] = true }
local left = {} -- lists that tasks leave
local malformed = {}

-- The sets in which a task is listed.
local function lists(state, owner)
  if owner == '' then
    return { all, prefix .. state }
  end
  return { all, prefix .. state, prefix .. 'all@' .. owner, prefix .. state .. '@' .. owner }
end

local ENTRY = '^([1-9]%d*):([0-3]):(%d+)@?(%d*):(%u+):(.*)$'
local HAS_ENDED = { PENDING = false, RUNNING = false, SUCCESS = true, FAILED = true }

-- Attempt, rank, created_ms, seen, state and owner; nothing where this is no entry.
local function parts(found)
  local attempt, rank, created, seen, state, owner = string.match(found, ENTRY)
  local is_entry = attempt
    and tonumber(attempt) <= MAX_ATTEMPT
    and #created == 13
    and (seen == '' or #seen == 13)
    and HAS_ENDED[state] == (rank == '3')
  if is_entry then
    return attempt, rank, created, seen, state, owner
  end
end

local function forget(id, found)
  local _, _, created, _, state, owner = parts(found)
  if not created then
    malformed[entry .. ' ' .. id] = true
    return
  end
  for _, key in ipairs(lists(state, owner)) do
    left[key] = true
    call('ZREM', key, created .. ':' .. id)
  end
end

-- What the entry of a task is to be, or nothing where what was found of it stays.
local function following(found, attempt, rank, created, seen, state, owner)
  local f_attempt, f_rank, f_created, f_seen, f_state
  if found then
    f_attempt, f_rank, f_created, f_seen, f_state = parts(found)
  end
  if f_attempt then
    if attempt ~= f_attempt or created ~= f_created then
      if tonumber(attempt) <= tonumber(f_attempt) and seen <= f_seen then
        return nil
      end
    elseif rank < f_rank or (rank == f_rank and rank == '3' and state ~= f_state) then
      return nil
    elseif seen < f_seen then
      seen = f_seen
    end
  end
  return attempt .. ':' .. rank .. ':' .. created .. (seen == '' and '' or '@' .. seen) .. ':' .. state .. ':' .. owner
end

local function run()
  local has_cancels = call('EXISTS', cancels) == 1
  for i = 5, #ARGV, FIELDS do
    local id, attempt, rank, created, state, owner, document_ttl, grace_ms, seen = unpack(ARGV, i, i + FIELDS - 1)
    local found = call('HGET', entry, id)
    local new = following(found, attempt, rank, created, seen, state, owner)
    if not new and tonumber(call('ZSCORE', expiry, id) or 0) < now then
      new = following(nil, attempt, rank, created, seen, state, owner)
    end
    if new then
      if found and found ~= new then
        forget(id, found)
      end
      for _, key in ipairs(lists(state, owner)) do
        touched[key] = true
        call('ZADD', key, 0, created .. ':' .. id)
      end
      call('HSET', entry, id, new)
      call('ZADD', expiry, now + document_ttl, id)
      if rank ~= '3' then
        call('ZADD', beats, now_ms + grace_ms, id)
      elseif found then
        call('ZREM', beats, id)
      end
      if rank == '3' and has_cancels then
        call('ZREM', cancels, boot .. ':' .. tonumber(created) .. ':' .. id)
      end
    end
  end

  local expired = call('ZRANGEBYSCORE', expiry, '-inf', '(' .. now, 'LIMIT', 0, sweep)
  for _, id in ipairs(expired) do
    local found = call('HGET', entry, id)
    if found then
      forget(id, found)
    end
    call('HDEL', entry, id)
    call('ZREM', expiry, id)
  end

  for key in pairs(touched) do
    call('EXPIRE', key, ttl)
  end
  return #expired
end

-- Deletes the keys that hold another type than they are for; whether there were any.
local function mend()
  local kinds = { [entry] = 'hash', [cancels] = 'zset' }
  for _, keys in ipairs({ touched, left }) do
    for key in pairs(keys) do
      kinds[key] = kinds[key] or 'zset'
    end
  end
  local is_any = false
  for key, kind in pairs(kinds) do
    local found = call('TYPE', key).ok
    if found ~= kind and found ~= 'none' then
      call('DEL', key)
      malformed[key], is_any = true, true
    end
  end
  return is_any
end

-- What was done before a key of another type was met may be done again.
local is_done, gone = pcall(run)
while not is_done and mend() do
  is_done, gone = pcall(run)
end
if not is_done then
  return type(gone) == 'table' and gone or redis.error_reply(tostring(gone))
end
local told = { gone }
for name in pairs(malformed) do
  table.insert(told, name)
end
return told
