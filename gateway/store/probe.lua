-- Runs every command that the scripts use, and leaves nothing behind: a server may accept some and refuse others.
--
-- KEYS[1]  tsx:ollama:probe   KEYS[2] ts:ollama:-, which is no task's document   ARGV[1] TTL of both in seconds
-- ARGV[2]  TTL of the lists in seconds

-- Redis before 7.2 does not say which command an account may not run. From here on all functions above use this, too.
call = function(name, ...)
  local reply = redis.pcall(name, ...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  if string.find(reply.err, "can't run this command", 1, true) then
    error('NOPERM the account may not run ' .. name .. ' in scripts')
  end
  return redis.call(name, ...) -- fails with the server's own words
end

call('SET', KEYS[1], '', 'EX', ARGV[1])
call('SET', KEYS[2], '', 'XX', 'EX', ARGV[1])
call('GET', KEYS[2])
-- The functions below call these two for a new member only. A probe that failed half-way has left its members behind, so
-- they are not new in the next one.
call('ZCARD', LISTS)
call('EXPIRE', KEYS[1], ARGV[1])
enlist('-', '0000000000000', 'FAILED', '', '', 0, 0, ARGV[2])
delist('-', '0000000000000', 'FAILED', '')
call('ZREM', BEATS, '-')
call('ZREM', PRESUMED, '-')
add(CANCELS, now, '-', ARGV[2])
call('ZREM', CANCELS, '-')
call('ZRANGEBYSCORE', EXPIRY, '-inf', '(0', 'LIMIT', 0, 1)
call('TTL', LISTS)
-- What reads and looks use.
call('EXISTS', KEYS[1])
call('ZSCORE', LISTS, COMPLETE)
call('ZRANGE', LISTS, 0, 0)
return 1
