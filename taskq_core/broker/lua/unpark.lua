-- unpark: tasks whose name a live worker knows go back into their line.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[names], rest ms, [queues]]: a task rests that long after it was parked; only those
--        queues, or two workers would park and unpark it in turn
-- reply  packed [how many were unparked]
-- events unparked
do
  local MOST = 100

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
    local rested = redis.call('ZRANGE', ctx.prefix .. 'parked', '-inf', ctx.now - request[2], 'BYSCORE')
    local moved = 0
    for _, id in ipairs(rested) do
      local task = moved < MOST and read_task(ctx.prefix, id)
      if task and known[task.name] and served[task.queue] and task.state == 'parked' then
        redis.call('ZREM', ctx.prefix .. 'parked', id)
        enqueue(ctx, task)
        add_event(ctx.log, 'unparked', id, task.attempt, task.epoch, { queue = task.queue, name = task.name })
        moved = moved + 1
      end
    end
    close_context(ctx)
    return cmsgpack.pack({ moved })
  end

  register('unpark', unpark, { 'allow-oom' })
end
