-- KEYS: stream, the group's holes. ARGV: group, consumer, then first, last, first, last ... of
-- what the consumer holds, ascending. Makes it young again, where it is still the consumer's, and
-- answers first, last, first, last ... of what is not.
local present, mine = now(), {}
for i = 3, #ARGV, 2 do
  local a, b = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i] .. '-0', ARGV[i + 1] .. '-0', b - a + 1, ARGV[2])
  if rows.err then return rows end
  local ids, claimed = {}, {}
  for _, row in ipairs(rows) do
    ids[#ids + 1] = row[1]
    mine[seq(row[1])] = true
  end
  pieces(ids, function(...)
    for _, id in ipairs({ ... }) do claimed[id] = false end
    local args = { ... }
    args[#args + 1] = 'JUSTID'
    for _, id in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(args))) do
      claimed[id] = true
    end
  end)
  -- Redis drops from the pending list what the stream no longer has.
  for _, id in ipairs(ids) do
    if not claimed[id] then put(KEYS[2], seq(id), seq(id), ARGV[2], present) end
  end
end
local from = 3
for _, h in ipairs(holes(KEYS[2])) do
  if h.owner == ARGV[2] then
    while from < #ARGV and tonumber(ARGV[from + 1]) < h.a do from = from + 2 end
    if from < #ARGV and tonumber(ARGV[from]) <= h.b then put(KEYS[2], h.a, h.b, h.owner, present) end
    for i = from, #ARGV, 2 do
      if tonumber(ARGV[i]) > h.b then break end
      for s = math.max(h.a, tonumber(ARGV[i])), math.min(h.b, tonumber(ARGV[i + 1])) do mine[s] = true end
    end
  end
end
local lost = {}
for i = 3, #ARGV, 2 do
  for s = tonumber(ARGV[i]), tonumber(ARGV[i + 1]) do
    if not mine[s] then
      lost[#lost + 1] = text(s)
      lost[#lost + 1] = text(s)
    end
  end
end
return lost
