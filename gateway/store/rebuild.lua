-- The steps of rebuilding the lists from the documents (see rebuild.py).
--
-- ARGV[1]  "begin", "add" or "end"   ARGV[2] TTL of the lists in seconds
-- begin: puts a mark into every known list, and into those that ARGV[3…] names. From then on new tasks enter the lists
--        as usual; "add" adds the older ones.
-- add:   KEYS[n] is a document (except the last two keys), ARGV[2 + n] its task id: adds these tasks to their lists.
-- end:   a list that still has the mark was not evicted meanwhile, so it is complete. ARGV[3…] as with begin.

local BEGUN = COMPLETE .. 'begun'
local step, ttl = ARGV[1], ARGV[2]

local function names()
  local found = { 'PENDING', 'RUNNING', 'SUCCESS', 'FAILED' }
  for n = 3, #ARGV do
    table.insert(found, ARGV[n])
  end
  for _, name in ipairs(call('ZRANGE', LISTS, 0, -1)) do
    if string.sub(name, 1, 1) ~= COMPLETE then
      table.insert(found, name)
    end
  end
  return found
end

local function begin()
  add(LISTS, 0, BEGUN, ttl)
  for _, name in ipairs(names()) do
    call('ZADD', LISTS, 0, name)
    add(PREFIX .. name, 0, BEGUN, ttl)
  end
  return 1
end

local function fill()
  for n = 1, #ARGV - 2 do
    local key, id = KEYS[n], ARGV[2 + n]
    local text = redis.pcall('GET', key)
    local document = type(text) == 'string' and decoded(text)
    local left = document and call('TTL', key) or 0
    if left > 0 then
      enlist(id, document.created, document.state, document.owner, left, ttl)
      if document.lost_after_ms then
        add(BEATS, document.lost_after_ms, id, ttl)
      end
    end
  end
  return 1
end

local function finish()
  local keys = { LISTS }
  for _, name in ipairs(names()) do
    table.insert(keys, PREFIX .. name)
  end
  for _, key in ipairs(keys) do
    if call('ZSCORE', key, BEGUN) then
      call('ZADD', key, 0, COMPLETE)
      call('ZREM', key, BEGUN)
    end
  end
  return 1
end

return ({ begin = begin, add = fill, ['end'] = finish })[step]()
