-- Takes tasks that have ended out of those in flight, and puts them into their lists as their documents say.
--
-- KEYS[n]  the document of task n (all but the last two)   ARGV[1] TTL of the lists in seconds   ARGV[1 + n] task id n

for n = 2, #ARGV do
  call('ZREM', BEATS, ARGV[n])
  enlist_as_stored(ARGV[n], tonumber(ARGV[1]))
end
return 1
