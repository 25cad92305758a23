-- Asks the gateway that runs a request to cancel it. Removes older calls that no gateway has answered in time.
--
-- ARGV[1]  the request's name, "<boot>:<created_ms>:<task id>"   ARGV[2] seconds that a gateway has to find it

call('ZADD', CANCELS, now, ARGV[1])
for _, name in ipairs(call('ZRANGEBYSCORE', CANCELS, '-inf', '(' .. now - ARGV[2])) do
  call('ZREM', CANCELS, name)
end
call('EXPIRE', CANCELS, ARGV[2])
return 1
