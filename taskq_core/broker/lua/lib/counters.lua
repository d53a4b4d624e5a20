-- Counters of a call, added up first and written once. Bucket b of a histogram holds the durations of
-- which floor(4 * log2(1 + ms)) is b.

local FOUR_BY_LOG2 = 5.7707801635558535  -- 4 / ln 2; the math library is not there while a library loads

local function new_counters(prefix)
  return { prefix = prefix, queues = {} }
end

local function bump(counters, queue, field, by)
  local fields = counters.queues[queue]
  if not fields then
    fields = {}
    counters.queues[queue] = fields
  end
  fields[field] = (fields[field] or 0) + by
end

local function bump_duration(counters, queue, what, ms)
  if ms < 0 then
    ms = 0
  end
  bump(counters, queue, what .. ':' .. math.floor(FOUR_BY_LOG2 * math.log(1 + ms)), 1)
  bump(counters, queue, what .. '_sum', math.floor(ms + 0.5))
end

local function write_counters(counters)
  for queue, fields in pairs(counters.queues) do
    local key = counters.prefix .. 'stats:' .. queue
    for field, by in pairs(fields) do
      redis.call('HINCRBY', key, field, by)
    end
  end
end
