-- Consumer groups begin at 0, never at `$`: a group made late must not skip what is already there.

-- An XINFO reply's flat list as a table.
local function fields_of(flat)
  local map = {}
  for i = 1, #flat, 2 do
    map[flat[i]] = flat[i + 1]
  end
  return map
end

local function make_group(key)
  redis.pcall('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
end

-- Call a command that needs the group; make the group when it is missing.
local function with_group(key, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'NOGROUP', 1, true) then
      return error(reply)
    end
    make_group(key)
    reply = redis.call(...)
  end
  return reply
end

-- Put an entry back at its place in the line: it stays pending, under the pseudo-consumer.
local function give_back(prefix, queue, stream, entry)
  local key = ready_key(prefix, queue, stream)
  redis.call('XCLAIM', key, GROUP, RETURNED, 0, entry, 'JUSTID')
  redis.call('HINCRBY', prefix .. 'queue:' .. queue, 'ret:' .. stream, 1)
end

local function drop_entry(prefix, queue, stream, entry)
  local key = ready_key(prefix, queue, stream)
  redis.pcall('XACK', key, GROUP, entry)
  redis.call('XDEL', key, entry)
end
