-- progress: the latest word of a running task. The history gets one every ten seconds, and the end.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [owner, task_id, epoch, fraction, message]
-- reply  packed [cancellation asked]
-- events progressed
-- A caller without the lease writes nothing.
do
  local EVERY = 10000

  local function progress(keys, args)
    local request = cmsgpack.unpack(args[1])
    local owner, id, epoch, fraction, message = unpack(request)
    local ctx = new_context(prefix_of(keys[1]), now_ms(), owner)
    local key = task_key(ctx.prefix, id)
    local task = read_task(ctx.prefix, id)
    if not task or task.state ~= 'running' or task.owner ~= owner or task.epoch ~= epoch then
      return cmsgpack.pack({ false })
    end
    redis.call('HSET', key, 'pf', cjson.encode({ fraction = fraction, message = message, at = ctx.now }))
    local told = tonumber(redis.call('HGET', key, 'pt') or 0)
    if ctx.now - told >= EVERY or fraction >= 1 then
      redis.call('HSET', key, 'pt', ctx.now)
      add_event(ctx.log, 'progressed', id, task.attempt, epoch, {
        fraction = fraction, message = message, queue = task.queue, name = task.name,
      })
    else
      redis.call('SPUBLISH', ctx.prefix .. 'live', '0 0 ' .. id .. '\n' .. cjson.encode({
        fraction = fraction, message = message, at = ctx.now,
      }))
    end
    close_context(ctx)
    return cmsgpack.pack({ task.cancel and true or false })
  end

  register('progress', progress, { 'allow-oom' })
end
