-- Deletes an answer for good. If its task has ended, the status document says so from the same moment on.
--
-- KEYS[1]  tsx:ollama:2:answers   KEYS[2] tsx:ollama:2:answer-bytes
-- ARGV[1]  task id   ARGV[2] generation   ARGV[3] the event_id that the document gets
-- Returns {1 if the answer was there, else 0; keys that held something else}.

-- In JSON a quote inside a string is escaped. So these texts are names with their values, whatever a client has sent.
local KEPT, DELETED = '"response":"kept"', '"response":"deleted"'
local EVENT_ID = '"event_id":"[^"\\]*"'

-- `text` with the bytes from `from` to `to` replaced.
local function replaced(text, from, to, by)
  return string.sub(text, 1, from - 1) .. by .. string.sub(text, to + 1)
end

-- The document of the same request after its end, with the changes; nil if it is another, or says something else.
local function changed(text, created, event_id)
  local document = decoded(text)
  if not document or document.rank ~= FINAL_RANK or tonumber(document.created) ~= tonumber(created) then
    return nil
  end
  local from, to = string.find(text, KEPT, 1, true)
  local id_from, id_to = string.find(text, EVENT_ID)
  if not from or not id_from or id_to > from then -- no gateway writes them in another order
    return nil
  end
  return replaced(replaced(text, from, to, DELETED), id_from, id_to, '"event_id":"' .. event_id .. '"')
end

local id, generation, event_id = ARGV[1], ARGV[2], ARGV[3]
local answer = answer_at(id)
if not answer or answer.generation ~= generation or answer.is_dropped then
  return { 0, malformed }
end
local text = text_at(DOCUMENT .. id)
local document = type(text) == 'string' and changed(text, answer.created, event_id)
bury(id, generation, answer.created, nil)
if document then
  call('SET', DOCUMENT .. id, document, 'KEEPTTL')
end
return { 1, malformed }
