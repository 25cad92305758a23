-- The lists of tasks: what every script that touches them begins with. layout.py puts it in front of each, and in front
-- of that DOCUMENT, PREFIX, FINAL_RANK, MAX_ATTEMPT, is_state and rank_of, which come from gateway/tasks.
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
local LISTS, EXPIRY, BEATS, CANCELS = PREFIX .. 'lists', PREFIX .. 'expiry', PREFIX .. 'beats', PREFIX .. 'cancels'
local COMPLETE = '#'
local MAX_BYTES = 1048576 -- no document is longer
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

local function add_to_list(name, place, ttl)
  if known[name] then
    call('ZADD', PREFIX .. name, 0, place)
    return
  end
  known[name] = true
  -- It is named also where the list is there: `lists` may have been evicted alone.
  local is_new_name = call('ZADD', LISTS, 0, name) == 1
  if add(PREFIX .. name, 0, place, ttl) and is_new_name then
    call('ZADD', PREFIX .. name, 0, COMPLETE)
  end
  if is_new_name then
    call('EXPIRE', LISTS, ttl)
  end
end

-- Puts a task into its lists. `created` has 13 digits, `expires` is in seconds from now.
local function enlist(id, created, state, owner, expires, ttl)
  local place = created .. ':' .. id
  local member = created .. ':' .. state .. ':' .. owner .. ':' .. id
  if call('ZADD', EXPIRY, now + expires, member, 'inf', COMPLETE) == 2 then
    call('EXPIRE', EXPIRY, ttl)
  end
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

-- What decides about a document: attempt, rank, state, boot, created (13 digits) and owner; nil where `text` is none.
-- Only as much is checked as the scripts rely on; the whole shape is checked by the gateway (tasks/document.py).
local function decoded(text)
  if #text > MAX_BYTES then
    return nil
  end
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

-- What GET replies; an error where a key of another type stands there. Any other error ends the script: a document that
-- must not be read is neither malformed nor gone.
local function text_at(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then
    call('GET', key)
  end
  return text
end

-- Puts a task into its lists as its document says, if it has one: a gateway of the version before may have written it.
local function enlist_as_stored(id, ttl)
  local text = text_at(DOCUMENT .. id)
  local document = type(text) == 'string' and decoded(text)
  local left = document and call('TTL', DOCUMENT .. id) or -1 -- rounded
  if left < 0 then
    return
  end
  enlist(id, document.created, document.state, document.owner, left + 1, ttl)
  if document.lost_after_ms then
    add(BEATS, document.lost_after_ms, id, ttl)
  end
end
