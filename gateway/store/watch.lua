-- What every gateway asks once a second. Called by store.py.
--
-- KEYS[1]  tsx:ollama:{index}:beats    sorted set of the ids in flight, score: Unix ms after which each counts as lost
-- KEYS[2]  tsx:ollama:{index}:cancels  sorted set of "<boot>:<created_ms>:<task id>" that are to be cancelled
--
-- Returns {ids that are silent for too long by this server's clock, names to cancel, that clock in Unix ms, keys that held
-- another type and are gone}, some of each.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local mended = {}
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    redis.call('DEL', key)
    table.insert(mended, key)
  end
end

return {
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now_ms, 'LIMIT', 0, 256),
  redis.call('ZRANGE', KEYS[2], 0, 999),
  now_ms,
  mended,
}
