
-- What scripts read in stored documents. layout.py puts it behind lists.lua in the scripts that need it, and behind
-- answers.lua in those of kept answers, which do not use the lists.

local MAX_BYTES = 1048576 -- no document is longer

-- What GET replies; an error where a key of another type stands there. Any other error ends the script: a document that
-- must not be read is neither malformed nor gone.
local function text_at(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then
    call('GET', key)
  end
  return text
end

-- Whether `label` can be one; the rule of gateway/tasks/options.py.
local function is_label(label)
  return type(label) == 'string' and #label <= MAX_LABEL and string.find(label, '^[!-~]+$') ~= nil
end

-- What decides about a document: attempt, rank, state, boot, created (13 digits), owner, label, and until when its loss
-- is presumed (nil: it is not); nil where `text` is no document.
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
  if not is_count or not is_moment(created) or not STATES[document.state] then
    return nil
  end
  local is_presumed = more.is_presumed == true and document.stage == 'lost' and is_moment(more.finished_ms)
  return {
    attempt = attempt,
    rank = RANKS[document.stage] or FINAL_RANK,
    state = document.state,
    boot = more.boot,
    created = string.format('%013d', created),
    owner = type(more.owner) == 'string' and more.owner or '',
    label = is_label(more.label) and more.label or '',
    lost_after_ms = is_moment(more.lost_after_ms) and more.lost_after_ms or nil,
    presumed_until_ms = is_presumed and more.finished_ms + PRESUMED_MS or nil,
  }
end

-- Puts a task into its lists as its document says, if it has one: a gateway of the version before may have written it.
local function enlist_as_stored(id, ttl)
  local text = text_at(DOCUMENT .. id)
  local document = type(text) == 'string' and decoded(text)
  local left = document and call('TTL', DOCUMENT .. id) or -1 -- rounded
  if left < 0 then
    return
  end
  local owner, label = document.owner, document.label
  enlist(id, document.created, document.state, owner, label, left + 1, document.lost_after_ms, ttl)
  if document.presumed_until_ms then
    add(PRESUMED, document.presumed_until_ms, request_name(id, document.created, document.boot), ttl)
  end
end
