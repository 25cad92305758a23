-- Asks for the end of a request. Called by store.py.
--
-- KEYS[1]  tsx:ollama:{index}:cancels   sorted set of "<boot>:<created_ms>:<task id>", score: Unix second, by this clock
-- ARGV[1]  the request's name   ARGV[2] how many seconds a gateway has to find it

local now = tonumber(redis.call('TIME')[1])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
