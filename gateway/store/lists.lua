-- The lists of tasks: what every script that touches them begins with. layout.py puts it in front of each, and in front
-- of that the names of keys, and FINAL_RANK, MAX_ATTEMPT, STATES and RANKS, which come from gateway/tasks.
--
-- All keys are sorted sets under PREFIX, and each has a TTL:
--   <STATE>           the tasks in a state; score 0, members "<created_ms, 13 digits>:<task id>" in order of creation
--   <STATE>@<owner>   those of one owner
--   lists             the names of the sets above; score 0
--   expiry            "<created_ms>:<STATE>:<owner>:<task id>"; score: the Unix second at which the document expires
--   beats             ids of tasks in flight; score: the Unix ms after which each counts as lost
--   cancels           names of requests to cancel, "<boot>:<created_ms>:<task id>"; score: the Unix second of the call
-- Redis evicts keys as a whole. So a member "#" in a set of tasks, and in `lists`, says that nothing is missing there: it
-- is put in when the set is begun for the first time, and by rebuild.lua. `expiry` has one, too, to be never empty.
-- Times are those of this server's clock. A key of another type fails the script; mend.lua deletes it, and the script is
-- called again: what it did may be done again.

local call = redis.call
local COMPLETE = '#'
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

-- Puts a task into its lists. `created` has 13 digits, `expires` is in seconds from now; `lost_after_ms` is nil for a
-- task that has ended.
local function enlist(id, created, state, owner, expires, lost_after_ms, ttl)
  local place = created .. ':' .. id
  local member = created .. ':' .. state .. ':' .. owner .. ':' .. id
  if call('ZADD', EXPIRY, string.format('%d', now + expires), member, 'inf', COMPLETE) == 2 then
    call('EXPIRE', EXPIRY, ttl)
  end
  add_to_list(state, place, ttl, false)
  if owner ~= '' then
    add_to_list(state .. '@' .. owner, place, ttl, true)
  end
  if lost_after_ms then
    add(BEATS, lost_after_ms, id, ttl)
  end
end

local function delist(id, created, state, owner)
  local place = created .. ':' .. id
  call('ZREM', PREFIX .. state, place)
  if owner ~= '' then
    call('ZREM', PREFIX .. state .. '@' .. owner, place)
  end
  call('ZREM', EXPIRY, created .. ':' .. state .. ':' .. owner .. ':' .. id)
end
