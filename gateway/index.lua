-- Keeps the order in which tasks are listed, and who is alive. Called by store.py, once per batch of written statuses.
--
-- All keys share the slot of their {index} tag and live as long as the newest document; the clock is this server's.
-- KEYS[1]  tsx:ollama:{index}:all      sorted set, score 0, members "<created_ms, 13 digits>:<task id>"
-- KEYS[2]  tsx:ollama:{index}:entry    hash, task id -> "<attempt>:<rank>:<created_ms, 13 digits>:<STATE>:<owner>"
-- KEYS[3]  tsx:ollama:{index}:expiry   sorted set of task ids, score: Unix second at which the document expires
-- KEYS[4]  tsx:ollama:{index}:beats    sorted set of the ids in flight, score: Unix ms after which each counts as lost
-- KEYS[5]  tsx:ollama:{index}:cancels  sorted set of "<boot>:<created_ms>:<task id>" to be cancelled (see watch.lua)
-- Like `all` there is a set per state, `<STATE>`, and for each owner `all@<owner>` and `<STATE>@<owner>`.
-- ARGV[1]  the prefix of these keys   ARGV[2] their TTL in seconds   ARGV[3] how many expired entries to forget
-- ARGV[4..]  ten per task: task id, attempt, rank, created_ms, state, owner, TTL of its document in seconds, grace in
--            ms, boot of its process, and 1 where its document is known to be written (else transition.lua may have refused it)
--
-- Scores are equal, so members sort by their bytes: by creation, then by id. An entry follows a later attempt, a higher
-- rank of the same one, and any other that is known to be written (attempts begin again at 1 where a document was
-- evicted); the first end stays. Expired entries go a few at a time.
-- Returns how many have gone.

local all, entry, expiry, beats, cancels = unpack(KEYS)
local prefix, ttl = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(time[2] / 1000)
local touched = {}

local function lists(state, owner)
  if owner == '' then
    return { all, prefix .. state }
  end
  return { all, prefix .. state, prefix .. 'all@' .. owner, prefix .. state .. '@' .. owner }
end

local function forget(id, found)
  local created, state, owner = string.match(found, '^%d+:%d:(%d+):(%u+):(.*)$')
  for _, key in ipairs(lists(state, owner)) do
    redis.call('ZREM', key, created .. ':' .. id)
  end
end

local function is_newer(found, new, attempt, rank, created, is_written)
  local f_attempt, f_rank, f_created = string.match(found, '^(%d+):(%d):(%d+)')
  f_attempt, f_rank, f_created = tonumber(f_attempt), tonumber(f_rank), tonumber(f_created)
  if attempt ~= f_attempt or created ~= f_created then
    return attempt > f_attempt or is_written
  end
  return rank > f_rank or (rank == f_rank and (rank < 3 or new == found))
end

local has_cancels = redis.call('EXISTS', cancels) == 1
for i = 4, #ARGV, 10 do
  local id, attempt, rank, created = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local state, owner = ARGV[i + 4], ARGV[i + 5]
  local created_text = string.format('%013.0f', created)
  local new = attempt .. ':' .. rank .. ':' .. created_text .. ':' .. state .. ':' .. owner
  local found = redis.call('HGET', entry, id)
  if not found or is_newer(found, new, attempt, rank, created, ARGV[i + 9] == '1')
    or tonumber(redis.call('ZSCORE', expiry, id) or 0) < now then
    if found and found ~= new then
      forget(id, found)
    end
    for _, key in ipairs(lists(state, owner)) do
      redis.call('ZADD', key, 0, created_text .. ':' .. id)
      touched[key] = true
    end
    redis.call('HSET', entry, id, new)
    redis.call('ZADD', expiry, now + ARGV[i + 6], id)
    if rank < 3 then
      redis.call('ZADD', beats, now_ms + ARGV[i + 7], id)
    else
      redis.call('ZREM', beats, id)
      if has_cancels then
        redis.call('ZREM', cancels, ARGV[i + 8] .. ':' .. ARGV[i + 3] .. ':' .. id)
      end
    end
  end
end

local expired = redis.call('ZRANGEBYSCORE', expiry, '-inf', '(' .. now, 'LIMIT', 0, ARGV[3])
for _, id in ipairs(expired) do
  local found = redis.call('HGET', entry, id)
  if found then
    forget(id, found)
  end
  redis.call('HDEL', entry, id)
  redis.call('ZREM', expiry, id)
end

for i = 1, 4 do
  touched[KEYS[i]] = true
end
for key in pairs(touched) do
  redis.call('EXPIRE', key, ttl)
end
return #expired
