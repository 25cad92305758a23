-- Compares and sets, so that a status is declared lost once, and not if its gateway has just written. Called by store.py.
--
-- KEYS[1]  ts:ollama:<task id>   ARGV[1] the document as it was read   ARGV[2] the new one   ARGV[3] TTL in seconds
-- Returns when it was replaced, in Unix ms by this server's clock; 0 where it was not.

if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
