-- KEYS: stream, the group's holes. ARGV: group, consumer, idle ms, cursor, how many.
-- Answers XAUTOCLAIM's {next cursor, entries, ids the stream no longer has}; Redis has dropped
-- the latter from the pending list, so they become holes that the consumer has leased.
local got = redis.pcall('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
if got.err then return got end
local present = now()
for _, id in ipairs(got[3] or {}) do put(KEYS[2], seq(id), seq(id), ARGV[2], present) end
return got
