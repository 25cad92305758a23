-- The steps of a rebuild (see rebuild.py).
--
-- ARGV[1]  "begin", "add" or "end"   ARGV[2] TTL of the lists in seconds   ARGV[3] name of this run
-- begin: puts the mark of this run into every known list and those that ARGV[4…] names; removes marks of other runs.
--        From then on each write is in its list. Earlier tasks are added by the next steps. `labels` is begun anew, with
--        the mark: so a set of a label that is named there has all that came since, and in the end the earlier ones too.
-- add:   KEYS[n] is a document (but the last two), ARGV[3 + n] its task id: puts those tasks into their lists.
-- end:   a list that still has the mark was not evicted meanwhile: it is complete. ARGV[4…] as with begin.

local ANY_BEGUN = COMPLETE .. 'begun:'
local step, ttl, BEGUN = ARGV[1], tonumber(ARGV[2]), ANY_BEGUN .. ARGV[3]

local function is_of_label(name)
  return string.sub(name, 1, 6) == 'label:'
end

-- The names of the lists that are marked one by one: there are few.
local function names()
  local found = { 'PENDING', 'RUNNING', 'SUCCESS', 'FAILED' }
  for n = 4, #ARGV do
    if not is_of_label(ARGV[n]) then
      table.insert(found, ARGV[n])
    end
  end
  for _, name in ipairs(call('ZRANGE', LISTS, 0, -1)) do
    if string.sub(name, 1, 1) ~= COMPLETE then
      table.insert(found, name)
    end
  end
  return found
end

local function mark(key)
  add(key, 0, BEGUN, ttl)
  for _, other in ipairs(call('ZRANGE', key, '[' .. ANY_BEGUN, '(' .. COMPLETE .. 'begun;', 'BYLEX')) do
    if other ~= BEGUN then -- a run that was broken off, or whose gateway has slept: what it adds does not suffice
      call('ZREM', key, other)
    end
  end
end

local function begin_labels()
  call('DEL', LABELS)
  call('ZADD', LABELS, 'inf', BEGUN)
  call('EXPIRE', LABELS, ttl)
  for n = 4, #ARGV do
    if is_of_label(ARGV[n]) then -- it may have no task any more, and would never be complete
      name_label_list(ARGV[n], ttl)
      call('EXPIRE', PREFIX .. ARGV[n], ttl)
    end
  end
end

local function begin()
  mark(LISTS)
  for _, name in ipairs(names()) do
    call('ZADD', LISTS, 0, name)
    mark(PREFIX .. name)
  end
  begin_labels()
  return 1
end

local function fill()
  for n = 1, #ARGV - 3 do
    enlist_as_stored(ARGV[3 + n], ttl)
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
  if call('ZSCORE', LABELS, BEGUN) then
    call('ZADD', LABELS, 'inf', COMPLETE)
    call('ZREM', LABELS, BEGUN)
  end
  return 1
end

return ({ begin = begin, add = fill, ['end'] = finish })[step]()
