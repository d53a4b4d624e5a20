-- Counters of a call, added up first and written once. Bucket b of a histogram holds the durations of
-- which floor(4 * log2(1 + ms)) is b.

local FOUR_BY_LOG2 = 5.7707801635558535  -- 4 / ln 2; the math library is not there while a library loads

local function new_counters(prefix)
  return { prefix = prefix, queues = {} }
end

local function of_queue(counters, queue)
  local of = counters.queues[queue]
  if not of then
    of = { fields = {}, names = {}, wait = {}, run = {}, wait_sum = 0, run_sum = 0 }
    counters.queues[queue] = of
  end
  return of
end

local function bump(counters, queue, field, by)
  local fields = of_queue(counters, queue).fields
  fields[field] = (fields[field] or 0) + by
end

-- For what happens to every task: counted under the name first, so that no string is made for each.
local function bump_name(counters, queue, what, name)
  local names = of_queue(counters, queue).names
  local of = names[what]
  if not of then
    of = {}
    names[what] = of
  end
  of[name] = (of[name] or 0) + 1
end

local function bump_duration(counters, queue, what, ms)
  if ms < 0 then
    ms = 0
  end
  local of = of_queue(counters, queue)
  local bucket, buckets = math.floor(FOUR_BY_LOG2 * math.log(1 + ms)), of[what]
  buckets[bucket] = (buckets[bucket] or 0) + 1
  if what == 'wait' then
    of.wait_sum = of.wait_sum + ms
  else
    of.run_sum = of.run_sum + ms
  end
end

local function write_histogram(key, what, buckets, sum)
  for bucket, count in pairs(buckets) do
    redis.call('HINCRBY', key, what .. ':' .. bucket, count)
  end
  if sum > 0 then
    redis.call('HINCRBY', key, what .. '_sum', math.floor(sum + 0.5))
  end
end

-- `what` holds the place of the name as `%`. Answers whether any of them was counted for the first time.
local function write_names(key, what, names)
  local before, after = string.match(what, '^(.-)%%(.*)$')
  local first = false
  for name, count in pairs(names) do
    first = redis.call('HINCRBY', key, before .. name .. after, count) == count or first
  end
  return first
end

local function write_counters(counters)
  for queue, of in pairs(counters.queues) do
    local key = counters.prefix .. 'stats:' .. queue
    for field, by in pairs(of.fields) do
      redis.call('HINCRBY', key, field, by)
    end
    local first = false
    for what, names in pairs(of.names) do
      first = write_names(key, what, names) or first
    end
    if first then -- a name that its queue did not have yet: the queue may be new as well
      redis.call('SADD', counters.prefix .. 'queues', queue)
    end
    write_histogram(key, 'wait', of.wait, of.wait_sum)
    write_histogram(key, 'run', of.run, of.run_sum)
  end
end
