-- Keeps the order in which tasks are listed. Called by store.py, once per batch of written statuses.
--
-- All keys share the slot of their {index} tag and live as long as the newest document.
-- KEYS[1]    tsx:ollama:{index}:all        sorted set, score 0, members "<created_ms, 13 digits>:<task id>"
-- KEYS[2..5] tsx:ollama:{index}:<STATE>    the same for PENDING, RUNNING, SUCCESS, FAILED
-- KEYS[6]    tsx:ollama:{index}:entry      hash, task id -> "<created_ms, 13 digits>:<rank>:<number of its state key>"
-- KEYS[7]    tsx:ollama:{index}:expiry     sorted set, score: Unix seconds at which the document expires
-- ARGV[1]    now in Unix seconds   ARGV[2] TTL of these keys in seconds
-- ARGV[3..]  five per task: task id, created_ms, rank, number of its state key (2..5), Unix second of expiry
--
-- Scores are equal, so members sort by their bytes: by creation, then by id. An entry follows only a later
-- creation (a new attempt) or a higher rank of the same one, and the first end stays. Expired entries go a few at a time.

local all, entry, expiry = KEYS[1], KEYS[6], KEYS[7]

local function forget(id, found)
  local created, state = string.match(found, '^(%d+):%d+:(%d+)$')
  redis.call('ZREM', all, created .. ':' .. id)
  redis.call('ZREM', KEYS[tonumber(state)], created .. ':' .. id)
end

for i = 3, #ARGV, 5 do
  local id, created, rank, state, expires = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local created_rank = string.format('%013.0f', tonumber(created)) .. ':' .. rank
  local found = redis.call('HGET', entry, id)
  local before = found and string.sub(found, 1, 15) or ''
  local is_another_end = before == created_rank and rank == '3' and found ~= created_rank .. ':' .. state
  if before <= created_rank and not is_another_end then
    local new = created_rank .. ':' .. state
    local member = string.sub(created_rank, 1, 13) .. ':' .. id
    if found and found ~= new then
      forget(id, found)
    end
    redis.call('ZADD', all, 0, member)
    redis.call('ZADD', KEYS[tonumber(state)], 0, member)
    redis.call('HSET', entry, id, new)
    redis.call('ZADD', expiry, expires, id)
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', '(' .. ARGV[1], 'LIMIT', 0, 100)) do
  local found = redis.call('HGET', entry, id)
  if found then
    forget(id, found)
  end
  redis.call('HDEL', entry, id)
  redis.call('ZREM', expiry, id)
end

for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[2])
end
return 1
