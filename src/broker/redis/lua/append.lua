-- KEYS: stream, prefix of the groups' holes. ARGV: seq of the first entry, entries.
-- Answers {0}, {1, last seq} when the stream ends elsewhere, or {2, error} at the first refusal.
-- A pipeline of XADDs is a third quicker, but goes on behind an entry that was refused (out of
-- memory, read-only ...), and that one could never be appended any more.
local first, last, there = tonumber(ARGV[1]), 0, redis.call('EXISTS', KEYS[1]) == 1
if there then
  local _
  _, last = ends(KEYS[1])
end
if last > 0 and last < first - 1 then return { 1, text(last) } end
for i = 2, #ARGV do
  local at = first + i - 2
  if at > last then
    local done = redis.pcall('XADD', KEYS[1], text(at) .. '-0', 'e', ARGV[i])
    if type(done) == 'table' and done.err then return { 2, done.err } end
    if there and last == 0 then
      -- Groups that were there before the first entry may have to begin before it.
      for _, g in ipairs(groups(KEYS[1])) do mend(KEYS[1], KEYS[2] .. g.name, g) end
      there = false
    end
  end
end
return { 0 }
