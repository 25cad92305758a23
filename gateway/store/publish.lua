-- Publishes a message. Does nothing if the account may not publish.
--
-- ARGV[1]  the channel   ARGV[2] the message
-- Returns how many connections got it.

local count = redis.pcall('PUBLISH', ARGV[1], ARGV[2])
return type(count) == 'number' and count or 0
