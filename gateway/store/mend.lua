-- Puts one list right whose key or scores are not as index.lua leaves them. Called by store.py, where it meets that.
--
-- KEYS[1]  tsx:ollama:{index}:all or another list: a sorted set, score 0, members "<created_ms, 13 digits>:<task id>"
--
-- Scores have to be equal, else members do not sort by their bytes. Returns how much was wrong, at most some thousands.

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  return 0
end
if kind ~= 'zset' then
  return redis.call('DEL', KEYS[1])
end
local wrong = 0
for _, range in ipairs({ { '-inf', '(0' }, { '(0', '+inf' } }) do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], range[1], range[2], 'LIMIT', 0, 1000)) do
    redis.call('ZADD', KEYS[1], 0, member)
    wrong = wrong + 1
  end
end
return wrong
