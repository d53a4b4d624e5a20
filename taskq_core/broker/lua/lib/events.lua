-- The event log of one call: everything that the call did becomes one stream entry.

local LIVE_BYTES = 16384          -- a larger batch is announced, not sent
local LIVE_BYTES_SECOND = 262144  -- what all subscribers together are sent in a second
local live = { second = 0, bytes = 0, head = 0 }

local function new_log(prefix, now, worker)
  return { prefix = prefix, now = now, worker = worker, list = {} }
end

-- `detail` must hold at least one field: an empty table would be packed as a list.
local function add_event(log, kind, id, attempt, epoch, detail)
  log.list[#log.list + 1] = { kind, id, attempt, epoch, detail }
end

local function publish(log, first, count, entry, packed)
  local second = math.floor(log.now / 1000)
  if second ~= live.second then
    live.second = second
    live.bytes = 0
  end
  local body = packed
  if #packed > LIVE_BYTES or live.bytes + #packed > LIVE_BYTES_SECOND then
    body = ''
  end
  live.bytes = live.bytes + #body
  live.head = first + count - 1
  redis.call('SPUBLISH', log.prefix .. 'live', first .. ' ' .. count .. ' ' .. entry .. '\n' .. body)
end

local function write_log(log)
  local count = #log.list
  if count == 0 then
    return
  end
  local last = redis.call('HINCRBY', log.prefix .. 'meta', 'n', count)
  local first = last - count + 1
  local packed = cmsgpack.pack({ 1, first, log.now, log.worker, log.list })
  local entry = redis.call('XADD', log.prefix .. 'events', '*', 'e', packed)
  publish(log, first, count, entry, packed)
end
