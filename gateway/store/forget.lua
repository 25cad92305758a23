-- Takes tasks out of lists whose documents are gone: asks again, for a document may be written since it was missed.
--
-- KEYS[n]  the document of task n (all but the last two)   ARGV[n] its place   further ARGV: names of the lists

local places = #KEYS - 2
for n = 1, places do
  if call('EXISTS', KEYS[n]) == 0 then
    for name = places + 1, #ARGV do
      call('ZREM', PREFIX .. ARGV[name], ARGV[n])
    end
  end
end
return 1
