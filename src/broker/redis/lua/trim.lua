-- KEYS: stream, prefix of the groups' holes. ARGV: settled seq, ceiling, how many at most.
-- Whatever goes and is not settled becomes a hole of the groups that lack it. Answers how many
-- are still to go.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local settled, present = tonumber(ARGV[1]), now()
local first, last = ends(KEYS[1])
local keep = math.min(math.max(settled + 1, last - tonumber(ARGV[2]) + 1), last + 1)
local upto = math.min(keep, first + tonumber(ARGV[3]))
if upto <= first then return 0 end
local list = groups(KEYS[1])
redis.call('XTRIM', KEYS[1], 'MINID', text(upto) .. '-0')
for _, g in ipairs(list) do
  local key = KEYS[2] .. g.name
  if g.read < math.min(settled, upto - 1) then move(KEYS[1], g, math.min(settled, upto - 1)) end
  if g.pending > 0 then
    local ids, run = {}, nil
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], g.name, '-', text(upto - 1) .. '-0', ARGV[3])) do
      local at, ms = seq(row[1]), present - row[3]
      ids[#ids + 1] = row[1]
      if at > settled then
        if run and run.b == at - 1 and run.owner == row[2] then
          run.b, run.ms = at, math.max(run.ms, ms)
        else
          if run then put(key, run.a, run.b, run.owner, run.ms) end
          run = { a = at, b = at, owner = row[2], ms = ms }
        end
      end
    end
    if run then put(key, run.a, run.b, run.owner, run.ms) end
    pieces(ids, function(...) redis.call('XACK', KEYS[1], g.name, ...) end)
  end
  mend(KEYS[1], key, g)
end
return keep - upto
