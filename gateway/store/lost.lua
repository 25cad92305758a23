-- Makes a task lost whose gateway is silent or dead, or makes a presumed loss final. It compares first: so this happens
-- once, and not if the gateway has spoken.
--
-- KEYS[1]  ts:ollama:<task id>
-- ARGV[1]  the document as it was read   ARGV[2] the new one   ARGV[3] its TTL in seconds   ARGV[4] TTL of the lists
-- ARGV[5]  the task id
-- Returns 1 if the document was replaced, else 0.

if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local id, ttl = ARGV[5], tonumber(ARGV[4])
local before, after = decoded(ARGV[1]), decoded(ARGV[2])
local name = request_name(id, after.created, after.boot)
call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
delist(id, before.created, before.state, before.owner)
enlist(id, after.created, after.state, after.owner, after.label, ARGV[3], nil, ttl)
call('ZREM', BEATS, id)
if after.presumed_until_ms then
  add(PRESUMED, after.presumed_until_ms, name, ttl)
else
  call('ZREM', PRESUMED, name)
end
return 1
