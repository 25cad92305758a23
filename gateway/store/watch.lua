-- What every gateway asks once a second.
--
-- ARGV[1]  how many expired tasks to sweep   ARGV[2] TTL of the lists in seconds
-- Returns {ids that have been silent for too long, names of requests to cancel, this server's clock in Unix ms, how many
-- tasks were swept, 1 where the lists are complete or 0, members of `expiry` that were malformed, names of requests that
-- are presumed lost, each with the Unix ms at which that is final}; up to 256 ids, and 1000 names of each kind.

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

-- As `sweep`, for the lists of labels.
local function sweep_labels(most, ttl)
  local expired = call('ZRANGEBYSCORE', LABEL_EXPIRY, '-inf', '(' .. now, 'LIMIT', 0, most)
  for _, member in ipairs(expired) do
    local created, owner, id, label = string.match(member, '^(%d+):([^: ]*):([^ ]+) ([!-~]+)$')
    if created then
      delist_label(id, created, owner, label)
      enlist_as_stored(id, ttl)
    else
      malformed[#malformed + 1] = LABEL_EXPIRY .. ' ' .. member
      call('ZREM', LABEL_EXPIRY, member)
    end
  end
  for _, name in ipairs(call('ZRANGEBYSCORE', LABELS, '-inf', '(' .. now, 'LIMIT', 0, most)) do
    call('ZREM', LABELS, name)
  end
  return #expired
end

-- Takes names out of `presumed` whose scores are no moments.
local function sweep_presumed(most)
  for _, range in ipairs({ { '-inf', '(0' }, { '(1e14', '+inf' } }) do
    for _, name in ipairs(call('ZRANGEBYSCORE', PRESUMED, range[1], range[2], 'LIMIT', 0, most)) do
      malformed[#malformed + 1] = PRESUMED .. ' ' .. name
      call('ZREM', PRESUMED, name)
    end
  end
end

-- Lists live as long as gateways do, and `ttl` longer; those of labels as long as they are written to.
local function renew(ttl)
  if call('TTL', EXPIRY) < ttl - RENEWED_EVERY then
    call('EXPIRE', EXPIRY, ttl)
  end
  if call('TTL', LISTS) > ttl - RENEWED_EVERY then
    return
  end
  for _, key in ipairs({ LISTS, BEATS, PRESUMED, LABELS, LABEL_EXPIRY }) do
    call('EXPIRE', key, ttl)
  end
  for _, name in ipairs(call('ZRANGE', LISTS, 0, -1)) do
    call('EXPIRE', PREFIX .. name, ttl)
  end
end

local lists_ttl = tonumber(ARGV[2])
local swept = math.max(sweep(ARGV[1], lists_ttl), sweep_labels(ARGV[1], lists_ttl))
sweep_presumed(ARGV[1])
local is_complete = call('ZSCORE', LISTS, COMPLETE) and call('ZSCORE', LABELS, COMPLETE)
renew(lists_ttl)
return {
  call('ZRANGEBYSCORE', BEATS, '-inf', '(' .. now_ms, 'LIMIT', 0, 256),
  call('ZRANGE', CANCELS, 0, 999),
  now_ms,
  swept,
  is_complete and 1 or 0,
  malformed,
  call('ZRANGE', PRESUMED, 0, 999, 'WITHSCORES'),
}
