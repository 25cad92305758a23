-- The gateways that share this server: each writes its record with every heartbeat, and reads those of the others.
--
-- KEYS     the two that every script names
-- ARGV[1]  'tell' writes the caller's record, 'leave' removes it if the caller wrote it, 'look' does neither
-- ARGV[2]  the caller's instance   ARGV[3] its boot   ARGV[4] its record, JSON   ARGV[5] ms for which that is kept
-- Returns {the boot in the record that the caller's instance had before, '' without one; {instance, ms since the record
-- was written, record} for each gateway; names of records that were malformed}
--
-- NODES is a hash with a TTL: <instance> -> "<written at, Unix ms of this server> <kept for ms> <boot> <record>". Other
-- programs may have put anything there. A key of another type, or with more fields than there are gateways, is deleted:
-- each gateway writes its record again with its next heartbeat. The JSON is checked by the caller.

local call = redis.call
local mode, instance, boot = ARGV[1], ARGV[2], ARGV[3]
local time = call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(time[2] / 1000)
local malformed = {}

local kind = call('TYPE', NODES).ok
if kind ~= 'none' and (kind ~= 'hash' or call('HLEN', NODES) > MAX_NODES) then
  call('DEL', NODES)
  malformed[1] = NODES
end

-- (written at, kept for, boot, record) of a gateway; nothing if the value has another form.
local function read(name)
  if #name > MAX_INSTANCE or call('HSTRLEN', NODES, name) > MAX_RECORD_BYTES then
    return nil
  end
  local written, kept, by, record = string.match(call('HGET', NODES, name) or '', '^(%d+) (%d+) (%S+) (.*)$')
  if not written or #written > 15 or #kept > 9 then
    return nil
  end
  return tonumber(written), tonumber(kept), by, record
end

local _, _, before = read(instance)
if mode == 'tell' then
  call('HSET', NODES, instance, string.format('%d %d %s %s', now_ms, ARGV[5], boot, ARGV[4]))
  local ttl = math.ceil(ARGV[5] / 1000)
  if call('TTL', NODES) < ttl then
    call('EXPIRE', NODES, ttl)
  end
elseif mode == 'leave' and before == boot then
  call('HDEL', NODES, instance)
end

local found = {}
for _, name in ipairs(call('HKEYS', NODES)) do
  local written, kept, _, record = read(name)
  if not written then
    call('HDEL', NODES, name)
    malformed[#malformed + 1] = NODES .. ' ' .. string.sub(name, 1, MAX_INSTANCE)
  elseif math.abs(now_ms - written) > kept then -- or this clock was set back
    call('HDEL', NODES, name)
  else
    found[#found + 1] = { name, math.max(0, now_ms - written), record }
  end
end
return { before or '', found, malformed }
