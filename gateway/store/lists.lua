-- The lists of tasks. layout.py puts this file in front of every script, and in front of this file PREFIX, FINAL_RANK,
-- MAX_ATTEMPT, is_state and rank_of, which come from gateway/tasks.
--
-- All keys are sorted sets under PREFIX, and each has a TTL:
--   <STATE>           the tasks in a state; score 0, members "<created_ms, 13 digits>:<task id>" in order of creation
--   <STATE>@<owner>   those of one owner
--   lists             the names of the sets above; score 0
--   expiry            "<created_ms>:<STATE>:<owner>:<task id>"; score: the Unix second at which the document expires
--   beats             ids of tasks in flight; score: the Unix ms after which each counts as lost
--   cancels           names of requests to cancel, "<boot>:<created_ms>:<task id>"; score: the Unix second of the call
-- Redis evicts keys as a whole. So a member "#" in a set of tasks, and in `lists`, says that nothing is missing there.
-- It is added when the set is created for the first time, and by rebuild.lua. `expiry` has one too, so that it is never
-- empty. Times are those of this server's clock. A key of another type makes the script fail. Then mend.lua deletes the
-- key, and the script runs again; every step may be repeated.

local call = redis.call
local LISTS, EXPIRY, BEATS, CANCELS = PREFIX .. 'lists', PREFIX .. 'expiry', PREFIX .. 'beats', PREFIX .. 'cancels'
local COMPLETE = '#'
local time = call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(time[2] / 1000)
local known = {} -- names of lists that this call knows to exist

-- Adds a member; true if this created the set. `ttl` is in seconds, and watch.lua renews it.
local function add(key, score, member, ttl)
  if call('ZADD', key, score, member) == 1 and call('ZCARD', key) == 1 then
    call('EXPIRE', key, ttl)
    return true
  end
  return false
end

local function add_to_list(name, place, ttl)
  if known[name] then
    call('ZADD', PREFIX .. name, 0, place)
    return
  end
  known[name] = true
  if add(PREFIX .. name, 0, place, ttl) then
    if call('ZADD', LISTS, 0, name) == 1 then
      call('ZADD', PREFIX .. name, 0, COMPLETE)
    end
    call('ZADD', EXPIRY, 'inf', COMPLETE)
    call('EXPIRE', LISTS, ttl)
    call('EXPIRE', EXPIRY, ttl)
  end
end

-- Adds a task to its lists. `created` has 13 digits, `expires` is in seconds from now.
local function enlist(id, created, state, owner, expires, ttl)
  local place = created .. ':' .. id
  call('ZADD', EXPIRY, now + expires, created .. ':' .. state .. ':' .. owner .. ':' .. id)
  add_to_list(state, place, ttl)
  if owner ~= '' then
    add_to_list(state .. '@' .. owner, place, ttl)
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

-- The fields of a document that the scripts need: attempt, rank, state, boot, created (13 digits), owner and
-- lost_after_ms. nil if `text` is no document. It checks only what the scripts rely on; tasks/document.py checks the
-- whole shape.
local function decoded(text)
  local is_json, document = pcall(cjson.decode, text)
  local more = is_json and type(document) == 'table' and document.extensions
  if type(more) ~= 'table' then
    return nil
  end
  local attempt, created = more.attempt, more.created_ms
  local is_count = type(attempt) == 'number' and attempt >= 1 and attempt <= MAX_ATTEMPT and attempt % 1 == 0
  local function is_moment(value)
    return type(value) == 'number' and value >= 0 and value < 1e13 and value % 1 == 0 -- no NaN, no fraction
  end
  if not is_count or not is_moment(created) or not is_state(document.state) then
    return nil
  end
  return {
    attempt = attempt,
    rank = rank_of(document.stage),
    state = document.state,
    boot = more.boot,
    created = string.format('%013d', created),
    owner = type(more.owner) == 'string' and more.owner or '',
    lost_after_ms = is_moment(more.lost_after_ms) and more.lost_after_ms or nil,
  }
end
