-- KEYS: stream, the group's holes. ARGV: group. Answers the seq up to which all is settled.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local g = group(KEYS[1], ARGV[1])
if not g then return false end
mend(KEYS[1], KEYS[2], g)
local upto = g.read
if g.pending > 0 then
  upto = math.min(upto, seq(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1][1]) - 1)
end
local list = holes(KEYS[2])
if list[1] then upto = math.min(upto, list[1].a - 1) end
return text(upto)
