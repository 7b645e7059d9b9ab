-- Stands before every script. A range of seq that a group must still get and that the stream no
-- longer has is one field of the group's hash: first seq -> "last:leased-at:owner". The owner is
-- empty, and the time 0, while no reader has the range. Ranges do not overlap.

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function text(n) return string.format('%.0f', n) end

local function seq(id) return tonumber(string.match(id, '^%d+')) end

-- Redis answers with names and values by turns.
local function pairs_of(flat)
  local t = {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end

-- The first seq the stream still has, or the one after its last when it has none; and the last
-- it ever had, 0 for a stream that never had any.
local function ends(stream)
  local last = seq(pairs_of(redis.call('XINFO', 'STREAM', stream))['last-generated-id'])
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return first and seq(first[1]) or last + 1, last
end

local function groups(stream)
  local list = {}
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local g = pairs_of(flat)
    list[#list + 1] = { name = g['name'], read = seq(g['last-delivered-id']), pending = g['pending'] }
  end
  return list
end

local function group(stream, name)
  for _, g in ipairs(groups(stream)) do
    if g.name == name then return g end
  end
end

local function holes(key)
  local flat, list = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local last, ms, owner = string.match(flat[i + 1], '^(%d+):(%d+):(.*)$')
    list[#list + 1] = { a = tonumber(flat[i]), b = tonumber(last), ms = tonumber(ms), owner = owner }
  end
  table.sort(list, function(x, y) return x.a < y.a end)
  return list
end

-- Redis that is out of memory refuses HSET, but not after another write of the same script: what
-- frees memory, and what reads on, must not stop for the few bytes of a hole.
local function put(key, a, b, owner, ms)
  if a <= b then
    redis.call('HDEL', key, text(a))
    redis.call('HSET', key, text(a), text(b) .. ':' .. text(ms) .. ':' .. owner)
  end
end

-- Adds what nobody has, to the range before it if there is one, so that the hash stays small.
local function add(key, a, b)
  for _, h in ipairs(holes(key)) do
    if h.owner == '' and h.b == a - 1 then a = h.a end
  end
  put(key, a, b, '', 0)
end

local function move(stream, g, to)
  redis.call('XGROUP', 'SETID', stream, g.name, text(to) .. '-0')
  g.read = to
end

-- The stream begins behind what the group has read: what is between is a hole.
local function mend(stream, key, g)
  local first = ends(stream)
  if g.read + 1 < first then
    add(key, g.read + 1, first - 1)
    move(stream, g, first - 1)
  end
end

-- Calls f with pieces of a list that are short enough for unpack.
local function pieces(list, f)
  for i = 1, #list, 1000 do
    f(unpack(list, i, math.min(i + 999, #list)))
  end
end
