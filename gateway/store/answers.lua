-- Kept answers: what every script that touches them begins with. layout.py puts it in front of each, and in front of that
-- the names of keys. Behind it are documents.lua, where a script reads documents, and counts.lua, where it changes answers.
--
-- All keys are under PREFIX, and each has a TTL:
--   answer:<task id>              string "<generation> <created_ms> <head>" of the task's newest answer; without the head
--                                 once the answer was dropped: so no later part of it is taken
--   body:<task id> <generation>   string: the bytes of its body so far
--   answers                       sorted set of the answers that are counted, "<task id> <generation>"; score: the Unix
--                                 second after which the answer has expired
--   answer-bytes                  hash of the bytes that are stored: "<task id> <generation>" -> "<bytes> <owner>",
--                                 "@" -> those of all answers, "@<owner>" -> those of one owner; no field for 0 bytes
-- An answer counts with all of its two strings. What was dropped does not count.
-- Redis evicts keys as a whole. If `answers` or `answer-bytes` is gone, the other one is deleted, too: the totals are too
-- small then, until the answers that are not counted any more expire. An answer that is still written is counted again,
-- with all its bytes. If an answer is evicted, it counts until it would have expired.
-- Other programs may have put anything there: a text that is no head counts as none; if a total is no number, both keys
-- are deleted. A key of another type fails the script before it changes anything for this answer; answer_mend.lua deletes
-- the key, and the script is called again.

local call = redis.call

local function answer_key(id)
  return ANSWER .. id
end

local function body_key(id, generation)
  return BODY .. id .. ' ' .. generation
end

-- The newest answer of a task; nil if there is none.
local function answer_at(id)
  local text = call('GET', answer_key(id)) or ''
  local generation, created, head_at = string.match(text, '^(%S+) (%d+) ()')
  if not generation or #created > 13 then
    return nil
  end
  return { generation = generation, created = created, text = text, head_at = head_at, is_dropped = head_at > #text }
end
