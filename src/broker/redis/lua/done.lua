-- KEYS: the group's holes. ARGV: first, last, first, last ... of what is done with, ascending.
local from = 1
for _, h in ipairs(holes(KEYS[1])) do
  local a, cut = h.a, false
  while from < #ARGV and tonumber(ARGV[from + 1]) < h.a do from = from + 2 end
  for i = from, #ARGV, 2 do
    local x, y = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
    if x > h.b then break end
    if not cut then
      redis.call('HDEL', KEYS[1], text(h.a))
      cut = true
    end
    put(KEYS[1], a, x - 1, h.owner, h.ms)
    a = y + 1
  end
  if cut then put(KEYS[1], a, h.b, h.owner, h.ms) end
end
return redis.status_reply('OK')
