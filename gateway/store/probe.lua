-- Runs every command that the scripts use, and leaves nothing behind: a server may accept some and refuse others.
--
-- KEYS[1]  tsx:ollama:probe   KEYS[2] ts:ollama:-, which is no task's document   ARGV[1] TTL of both in seconds
-- ARGV[2]  TTL of the lists in seconds

call('SET', KEYS[1], '', 'EX', ARGV[1])
call('SET', KEYS[2], '', 'XX', 'EX', ARGV[1])
call('GET', KEYS[2])
enlist('-', '0000000000000', 'FAILED', '', '', 0, 0, ARGV[2])
delist('-', '0000000000000', 'FAILED', '')
call('ZREM', BEATS, '-')
call('ZREM', PRESUMED, '-')
add(CANCELS, now, '-', ARGV[2])
call('ZREM', CANCELS, '-')
call('ZRANGEBYSCORE', EXPIRY, '-inf', '(0', 'LIMIT', 0, 1)
call('TTL', LISTS)
return 1
