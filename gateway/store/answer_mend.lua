-- Deletes the keys of answers that hold another type than they should: those are not ours, and in the way of a script.
--
-- KEYS[1]  tsx:ollama:2:answers   KEYS[2] tsx:ollama:2:answer-bytes
-- ARGV     a task id and a generation, '' for the one that is stored, for each answer that the script may touch
-- Returns the keys that are gone.

local gone = {}

local function mend(key, expected)
  local kind = call('TYPE', key).ok
  if kind ~= expected and kind ~= 'none' then
    call('DEL', key)
    gone[#gone + 1] = key
  end
end

mend(ANSWERS, 'zset')
mend(ANSWER_BYTES, 'hash')
for n = 1, #ARGV, 2 do
  local id = ARGV[n]
  mend(answer_key(id), 'string')
  local stored = answer_at(id)
  if stored then
    mend(body_key(id, stored.generation), 'string')
  end
  if ARGV[n + 1] ~= '' then
    mend(body_key(id, ARGV[n + 1]), 'string')
  end
end
return gone
