-- Makes a task lost whose gateway is silent. It compares first: so this happens once, and not if a heartbeat has come.
--
-- KEYS[1]  ts:ollama:<task id>
-- ARGV[1]  the document as it was read   ARGV[2] the new one   ARGV[3] its TTL in seconds   ARGV[4] TTL of the lists
-- ARGV[5]  the task id
-- Returns 1 if the document was replaced, else 0.

if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local before, after = decoded(ARGV[1]), decoded(ARGV[2])
call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
delist(ARGV[5], before.created, before.state, before.owner)
enlist(ARGV[5], after.created, after.state, after.owner, after.label, ARGV[3], nil, tonumber(ARGV[4]))
call('ZREM', BEATS, ARGV[5])
return 1
