-- What every gateway asks once a second.
--
-- ARGV[1]  how many expired tasks to sweep   ARGV[2] TTL of the lists in seconds
-- Returns {ids that have been silent for too long, names of requests to cancel, this server's clock in Unix ms, how many
-- tasks were swept, 1 where the lists are complete or 0, members of `expiry` that were malformed}; some ids and names.

local RENEWED_EVERY = 60 -- seconds
local malformed = {}

-- Takes tasks out of the lists whose documents have expired; returns how many. A document that is still there was
-- written by a gateway of the version before, which knows other lists.
local function sweep(most, ttl)
  local expired = call('ZRANGEBYSCORE', EXPIRY, '-inf', '(' .. now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do
    local created, state, owner, id = string.match(member, '^(%d+):(%u+):([^:]*):(.*)$')
    if STATES[state] then
      delist(id, created, state, owner)
      enlist_as_stored(id, ttl)
    else
      malformed[#malformed + 1] = EXPIRY .. ' ' .. member
      call('ZREM', EXPIRY, member)
    end
  end
  return #expired
end

-- Lists live as long as gateways do, and `ttl` longer.
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

local lists_ttl = tonumber(ARGV[2])
local swept = sweep(ARGV[1], lists_ttl)
renew(lists_ttl)
return {
  call('ZRANGEBYSCORE', BEATS, '-inf', '(' .. now_ms, 'LIMIT', 0, 256),
  call('ZRANGE', CANCELS, 0, 999),
  now_ms,
  swept,
  call('ZSCORE', LISTS, COMPLETE) and 1 or 0,
  malformed,
}
