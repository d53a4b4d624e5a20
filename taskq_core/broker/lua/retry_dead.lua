-- retry_dead: give a dead or cancelled task a new life under its old id.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [task_id, actor, reason, payload or '', digest or '', restored]
--        `restored` is {} or, when Redis no longer keeps the task, what the history keeps of it:
--        [name, queue, priority, payload, options, digest, submitted_at, epoch, unique_key, metadata,
--        trace]; epoch is that of its last attempt, so that no lease of an earlier life can match a new one
-- reply  packed [code, state]; code: '' not_found conflict unique_taken
-- events retried
do
  local function rebuild(prefix, id, r)
    local fields = {
      'l', life_text('dead', r[8], 0, '-', '-', r[7]), 'n', r[1], 'q', r[2], 'p', r[3], 'd', r[4], 'o', r[5],
      'g', r[6], 'at', r[7],
    }
    for at, field in pairs({ [9] = 'u', [10] = 'm', [11] = 't' }) do
      if r[at] and r[at] ~= '' then
        fields[#fields + 1] = field
        fields[#fields + 1] = r[at]
      end
    end
    redis.call('HSET', task_key(prefix, id), unpack(fields))
    redis.call('SADD', prefix .. 'queues', r[2])
  end

  local function unique_is_taken(prefix, id, queue, unique)
    if not unique or unique == '' then
      return false
    end
    local holder = redis.call('GET', prefix .. 'unique:' .. queue .. ':' .. unique)
    return holder and holder ~= id
  end

  local function revive(ctx, task, request)
    local fresh = {}
    task.attempt = 0
    local detail = { name = task.name, queue = task.queue, actor = request[2], reason = request[3] }
    if request[4] ~= '' then
      fresh = { 'd', request[4], 'g', request[5] }
      detail.payload = request[4]
      detail.digest = request[5]
    end
    local first = redis.call('HGET', task.key, 'b')
    if first then
      task.stream = first
      fresh[#fresh + 1] = 'p'
      fresh[#fresh + 1] = first
    end
    if #fresh > 0 then
      redis.call('HSET', task.key, unpack(fresh))
    end
    redis.call('HDEL', task.key, 'k', 'i', 'c', 'f', 'r', 'fs', 'b', 'pf', 'pt', 'due')
    redis.call('PERSIST', task.key)
    redis.call('ZREM', ctx.prefix .. 'dead', task.id)
    if task.unique then
      redis.call('SET', ctx.prefix .. 'unique:' .. task.queue .. ':' .. task.unique, task.id)
    end
    enqueue(ctx, task)
    bump(ctx.counters, task.queue, 'retried:' .. task.name, 1)
    add_event(ctx.log, 'retried', task.id, 0, task.epoch, detail)
  end

  local function retry_dead(keys, args)
    local request = cmsgpack.unpack(args[1])
    local id, restored = request[1], request[6]
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    local task = read_task(ctx.prefix, id)
    if not task and #restored == 0 then
      return cmsgpack.pack({ 'not_found', '' })
    elseif task and task.state ~= 'dead' and task.state ~= 'cancelled' then
      return cmsgpack.pack({ 'conflict', task.state })
    end
    local queue, unique = task and task.queue or restored[2], task and task.unique or restored[9]
    if unique_is_taken(ctx.prefix, id, queue, unique) then
      return cmsgpack.pack({ 'unique_taken', task and task.state or 'dead' })
    end
    if not task then
      rebuild(ctx.prefix, id, restored)
      task = read_task(ctx.prefix, id)
    end
    revive(ctx, task, request)
    close_context(ctx)
    return cmsgpack.pack({ '', 'queued' })
  end

  register('retry_dead', retry_dead, { 'allow-oom' })
end
