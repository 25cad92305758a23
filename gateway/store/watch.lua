-- Every gateway runs this once a second.
--
-- ARGV[1]  the most expired tasks to remove   ARGV[2] TTL of the lists in seconds
-- Returns {ids of silent tasks, at most 256; names of requests to cancel, at most 1000; this server's clock in Unix ms;
-- how many expired tasks it removed; 1 if the lists are complete, else 0; malformed members of `expiry`}.

local RENEWED_EVERY = 60 -- seconds
local malformed = {}

-- Removes tasks whose documents have expired from the lists; returns how many.
local function sweep(most)
  local expired = call('ZRANGEBYSCORE', EXPIRY, '-inf', '(' .. now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do
    local created, state, owner, id = string.match(member, '^(%d+):(%u+):([^:]*):(.*)$')
    if is_state(state) then
      delist(id, created, state, owner)
    else
      malformed[#malformed + 1] = EXPIRY .. ' ' .. member
      call('ZREM', EXPIRY, member)
    end
  end
  return #expired
end

-- Renews the TTL of the lists, so that they expire `ttl` after the last gateway has stopped.
local function renew(ttl)
  if call('TTL', EXPIRY) < ttl - RENEWED_EVERY then
    call('EXPIRE', EXPIRY, ttl)
  end
  if call('TTL', LISTS) > ttl - RENEWED_EVERY then
    return
  end
  call('EXPIRE', LISTS, ttl)
  call('EXPIRE', BEATS, ttl)
  for _, name in ipairs(call('ZRANGE', LISTS, 0, -1)) do
    call('EXPIRE', PREFIX .. name, ttl)
  end
end

local swept = sweep(ARGV[1])
renew(tonumber(ARGV[2]))
return {
  call('ZRANGEBYSCORE', BEATS, '-inf', '(' .. now_ms, 'LIMIT', 0, 256),
  call('ZRANGE', CANCELS, 0, 999),
  now_ms,
  swept,
  call('ZSCORE', LISTS, COMPLETE) and 1 or 0,
  malformed,
}
