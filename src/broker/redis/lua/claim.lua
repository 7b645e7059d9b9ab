-- KEYS: stream, the group's holes. ARGV: group, consumer, how many, age in ms at which a lease
-- may be taken over. Answers {first, last} of what the consumer has leased now, or nil.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local g = group(KEYS[1], ARGV[1])
if not g then return false end
mend(KEYS[1], KEYS[2], g)
local present = now()
for _, h in ipairs(holes(KEYS[2])) do
  if h.owner == '' or present - h.ms >= tonumber(ARGV[4]) then
    local last = math.min(h.b, h.a + tonumber(ARGV[3]) - 1)
    put(KEYS[2], h.a, last, ARGV[2], present)
    put(KEYS[2], last + 1, h.b, h.owner, h.ms)
    return { text(h.a), text(last) }
  end
end
return false
