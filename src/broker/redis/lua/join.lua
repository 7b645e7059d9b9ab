-- KEYS: stream, the group's holes. ARGV: group, checkpoint, age in ms at which an idle consumer
-- with nothing pending is forgotten. Answers 1 when it made the group.
local g = redis.call('EXISTS', KEYS[1]) == 1 and group(KEYS[1], ARGV[1])
local new = not g
if new then
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2] .. '-0', 'MKSTREAM')
  if made.err then return made end
  redis.call('DEL', KEYS[2])
  g = group(KEYS[1], ARGV[1])
end
if g.read < tonumber(ARGV[2]) then move(KEYS[1], g, tonumber(ARGV[2])) end
mend(KEYS[1], KEYS[2], g)
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local c = pairs_of(flat)
  if c['pending'] == 0 and c['idle'] > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], c['name'])
  end
end
return new and 1 or 0
