-- Reads what there is of a task and its newest answer, at one moment.
--
-- KEYS[1]  tsx:ollama:2:answers   KEYS[2] tsx:ollama:2:answer-bytes
-- ARGV[1]  task id   ARGV[2] offset in the body   ARGV[3] how many bytes of the body, at most
-- Returns {the status document, nil for none, '' where a key of another type stands there; generation; head; length of the
-- body; bytes of the body from the offset on}. Without an answer the last four are '', '', 0 and ''; of one that was
-- dropped there is the generation alone.
--
-- Readers at other gateways poll with this script.

local id, offset = ARGV[1], tonumber(ARGV[2])
local document = text_at(DOCUMENT .. id)
if type(document) == 'table' then
  document = ''
end
local answer = answer_at(id)
if not answer or answer.is_dropped then
  return { document, answer and answer.generation or '', '', 0, '' }
end
local body = body_key(id, answer.generation)
local length = call('STRLEN', body)
local piece = offset < length and call('GETRANGE', body, offset, offset + ARGV[3] - 1) or ''
return { document, answer.generation, string.sub(answer.text, answer.head_at), length, piece }
