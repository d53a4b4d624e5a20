-- cancel: end a task that waits, or ask the runner of a running one to stop it.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [task_id, actor, reason, force]
-- reply  packed [code, state]; code: '' not_found conflict (it ended already otherwise)
-- events cancelled; action (cancel) when it is running: `cancelled` follows when the lease ends
-- Repeatable: a cancelled task answers '' and writes nothing.
do
  local function leave_line(ctx, task)
    if task.state == 'queued' then
      mark_gone(ctx, task.queue, task.stream, task.entry)
    elseif task.state == 'parked' then
      redis.call('ZREM', ctx.prefix .. 'parked', task.id)
    else
      redis.call('ZREM', ctx.prefix .. 'due', task.id)
    end
  end

  local function ask_runner(ctx, task, actor, reason)
    if task.cancel then
      return
    end
    redis.call('HSET', task.key, 'c', actor)
    add_event(ctx.log, 'action', task.id, task.attempt, task.epoch, {
      action = 'cancel', actor = actor, reason = reason, queue = task.queue, name = task.name,
    })
    redis.call('PUBLISH', 'taskq:control', cjson.encode({ op = 'cancel', id = task.id, owner = task.owner }))
  end

  local function cancel(keys, args)
    local request = cmsgpack.unpack(args[1])
    local actor, reason = request[2], request[3]
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    local task = read_task(ctx.prefix, request[1])
    if not task then
      return cmsgpack.pack({ 'not_found', '' })
    elseif task.state == 'cancelled' then
      return cmsgpack.pack({ '', 'cancelled' })
    elseif task.state == 'succeeded' or task.state == 'dead' then
      return cmsgpack.pack({ 'conflict', task.state })
    elseif task.state == 'running' then
      ask_runner(ctx, task, actor, reason)
      close_context(ctx)
      return cmsgpack.pack({ '', 'running' })
    end
    leave_line(ctx, task)
    redis.call('HSET', task.key, 'l', moved(task, 'cancelled', task.attempt, ctx.now))
    add_event(ctx.log, 'cancelled', task.id, task.attempt, task.epoch, {
      actor = actor, reason = reason, queue = task.queue, name = task.name,
    })
    end_life(ctx, task, 'cancelled')
    close_context(ctx)
    return cmsgpack.pack({ '', 'cancelled' })
  end

  register('cancel', cancel, { 'allow-oom' })
end
