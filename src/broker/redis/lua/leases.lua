-- KEYS: the group's holes. ARGV: consumer. Answers first, last, first, last ... of its leases.
local list = {}
for _, h in ipairs(holes(KEYS[1])) do
  if h.owner == ARGV[1] then
    list[#list + 1] = text(h.a)
    list[#list + 1] = text(h.b)
  end
end
return list
