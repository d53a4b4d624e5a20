-- unpark: tasks whose name a live worker knows go back into their line.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[names], rest ms, [queues], u]: a task rests that long after it was parked; only those
--        queues, or two workers would park and unpark it in turn
-- reply  packed [how many were unparked]
-- events unparked
do
  local MOST, LOOK = 100, 500

  -- A window of what is parked: names that nobody knows may stand there by the thousand.
  local function some_parked(key, u)
    local rest = redis.call('ZCARD', key) - LOOK
    local from = rest > 0 and math.floor(u * (rest + 1)) or 0
    return redis.call('ZRANGE', key, from, from + LOOK - 1, 'WITHSCORES')
  end

  local function unpark(keys, args)
    local request = cmsgpack.unpack(args[1])
    local known, served = {}, {}
    for _, name in ipairs(request[1]) do
      known[name] = true
    end
    for _, queue in ipairs(request[3]) do
      served[queue] = true
    end
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    local parked = some_parked(ctx.prefix .. 'parked', request[4])
    local count = 0
    for i = 1, #parked, 2 do
      local id = parked[i]
      local rested = tonumber(parked[i + 1]) <= ctx.now - request[2]
      local task = rested and count < MOST and read_task(ctx.prefix, id)
      if task and known[task.name] and served[task.queue] and task.state == 'parked' then
        redis.call('ZREM', ctx.prefix .. 'parked', id)
        enqueue(ctx, task)
        add_event(ctx.log, 'unparked', id, task.attempt, task.epoch, { queue = task.queue, name = task.name })
        count = count + 1
      end
    end
    close_context(ctx)
    return cmsgpack.pack({ count })
  end

  register('unpark', unpark, { 'allow-oom' })
end
