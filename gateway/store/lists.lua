-- The lists of tasks: what every script that touches them begins with. layout.py puts it in front of each, and in front
-- of that the names of keys, and FINAL_RANK, MAX_ATTEMPT, STATES and RANKS, which come from gateway/tasks.
--
-- All keys are sorted sets under PREFIX, and each has a TTL:
--   <STATE>           the tasks in a state; score 0, members "<created_ms, 13 digits>:<task id>" in order of creation
--   <STATE>@<owner>   those of one owner
--   lists             the names of the sets above; score 0
--   expiry            "<created_ms>:<STATE>:<owner>:<task id>"; score: the Unix second at which the document expires
--   beats             ids of tasks in flight; score: the Unix ms after which each counts as lost
--   presumed          names of requests that are presumed lost, as in `cancels`; score: the Unix ms at which that is final
--   cancels           names of requests to cancel, "<boot>:<created_ms>:<task id>"; score: the Unix second of the call
--   label:<owner>:<label>  the tasks of a label, members as in <STATE>; <owner> is empty in the set of all owners
--   labels            the names of the sets of labels; score: the Unix second after which no task of the set is left
--   label-expiry      "<created_ms>:<owner>:<task id> <label>"; score as in expiry
-- Redis evicts keys as a whole. So a member "#" in a set of tasks, in `lists` and in `labels`, says that nothing is
-- missing there: it is put in when the set is begun for the first time, and by rebuild.lua. `expiry` and `label-expiry`
-- have one, too, to be never empty. There may be a set of a label for each job: so nothing goes through all of them, and
-- a set that is not written to any more expires by itself.
-- Times are those of this server's clock. A key of another type fails the script; mend.lua deletes it, and the script is
-- called again: what it did may be done again.

local call = redis.call
local COMPLETE = '#'
local RENEWED_EVERY = 60 -- seconds
local UNNAMED_EARLY = 1800 -- seconds; a name leaves `labels` before its set expires, and after the set's last document
local time = call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(time[2] / 1000)
local known = {} -- names of lists that exist, as far as this call has seen

-- Adds a member; whether the set was begun with it. `ttl` is in seconds, and watch.lua renews it.
local function add(key, score, member, ttl)
  if call('ZADD', key, score, member) == 1 and call('ZCARD', key) == 1 then
    call('EXPIRE', key, ttl)
    return true
  end
  return false
end

local function add_to_list(name, place, ttl, is_of_owner)
  if known[name] then
    call('ZADD', PREFIX .. name, '0', place)
    return
  end
  known[name] = true
  -- `lists` may have been evicted alone. A rebuild names the lists of the states, but may not know one of an owner.
  local is_new_name = is_of_owner and call('ZADD', LISTS, '0', name) == 1
  if add(PREFIX .. name, '0', place, ttl) then
    is_new_name = is_new_name or call('ZADD', LISTS, '0', name) == 1
    if is_new_name then
      call('ZADD', PREFIX .. name, 0, COMPLETE)
    end
  end
  if is_new_name then
    call('EXPIRE', LISTS, ttl)
  end
end

-- Notes a set of a label in `labels`. The first time, the set is complete: none of its tasks came before.
local function name_label_list(name, ttl)
  local is_new_name = call('ZADD', LABELS, 'GT', string.format('%d', now + ttl - UNNAMED_EARLY), name) == 1
  if is_new_name then
    call('ZADD', PREFIX .. name, 0, COMPLETE)
    call('EXPIRE', LABELS, ttl)
  end
end

local function add_to_label_list(name, place, ttl)
  if not known[name] then
    known[name] = true
    name_label_list(name, ttl)
  end
  local key = PREFIX .. name
  call('ZADD', key, '0', place)
  if call('TTL', key) < ttl - RENEWED_EVERY then -- another gateway may keep its tasks for longer
    call('EXPIRE', key, ttl)
  end
end

local function label_list_names(owner, label)
  local of_all = 'label::' .. label
  return owner == '' and { of_all } or { of_all, 'label:' .. owner .. ':' .. label }
end

local function enlist_label(id, created, owner, label, expires, ttl)
  local member = created .. ':' .. owner .. ':' .. id .. ' ' .. label
  if call('ZADD', LABEL_EXPIRY, string.format('%d', now + expires), member, 'inf', COMPLETE) == 2 then
    call('EXPIRE', LABEL_EXPIRY, ttl)
  end
  for _, name in ipairs(label_list_names(owner, label)) do
    add_to_label_list(name, created .. ':' .. id, ttl)
  end
end

local function delist_label(id, created, owner, label)
  for _, name in ipairs(label_list_names(owner, label)) do
    redis.pcall('ZREM', PREFIX .. name, created .. ':' .. id) -- a key of another type does not have it
  end
  call('ZREM', LABEL_EXPIRY, created .. ':' .. owner .. ':' .. id .. ' ' .. label)
end

-- Puts a task into its lists. `created` has 13 digits, `expires` is in seconds from now; `lost_after_ms` is nil for a
-- task that has ended; `label` is '' for none.
local function enlist(id, created, state, owner, label, expires, lost_after_ms, ttl)
  local place = created .. ':' .. id
  local member = created .. ':' .. state .. ':' .. owner .. ':' .. id
  if call('ZADD', EXPIRY, string.format('%d', now + expires), member, 'inf', COMPLETE) == 2 then
    call('EXPIRE', EXPIRY, ttl)
  end
  add_to_list(state, place, ttl, false)
  if owner ~= '' then
    add_to_list(state .. '@' .. owner, place, ttl, true)
  end
  if label ~= '' then
    enlist_label(id, created, owner, label, expires, ttl)
  end
  if lost_after_ms then
    add(BEATS, lost_after_ms, id, ttl)
  end
end

-- The name of a request; `created` has 13 digits.
local function request_name(id, created, boot)
  return tostring(boot) .. ':' .. string.format('%d', created) .. ':' .. id
end

-- Takes a task out of the lists of its state; delist_label takes it out of those of its label.
local function delist(id, created, state, owner)
  local place = created .. ':' .. id
  call('ZREM', PREFIX .. state, place)
  if owner ~= '' then
    call('ZREM', PREFIX .. state .. '@' .. owner, place)
  end
  call('ZREM', EXPIRY, created .. ':' .. state .. ':' .. owner .. ':' .. id)
end
