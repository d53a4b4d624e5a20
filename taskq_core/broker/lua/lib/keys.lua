-- Keys of a shard, composed from its prefix. The Python side spells them in broker/keys.py.

local function prefix_of(events_key)
  return string.sub(events_key, 1, -7)
end

local function ready_key(prefix, queue, stream)
  return prefix .. 'ready:' .. queue .. ':' .. stream
end

local function task_key(prefix, id)
  return prefix .. 'task:' .. id
end

local GROUP = 'workers'
local RETURNED = 'returned'
local SOLO = 'solo'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The milliseconds in the first 48 bits of a UUIDv7.
local function id_ms(id)
  return tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16)
end

-- The milliseconds of a stream entry's id: when it became ready.
local function entry_ms(entry)
  return tonumber(string.match(entry, '^%d+'))
end
