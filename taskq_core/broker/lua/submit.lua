-- submit: accept tasks, or give back the ids of those that stand already.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [actor, [[id, name, queue, priority, payload, options, digest, due_ms, delay_ms,
--          unique_key, metadata, trace], …]]
-- reply  packed [[code, id, state, at, first], …]; code: '' conflict too_late id_clock
-- events submitted
-- A repeat with the same id writes nothing. Refused when memory is full (no allow-oom).
do
  local OLDEST = 90000  -- W - 30 s: a younger id without a hash was never accepted
  local AHEAD = 10000

  local function judge_new(id, now)
    local made = id_ms(id)
    if made < now - OLDEST then
      return 'too_late'
    elseif made > now + AHEAD then
      return 'id_clock'
    end
    return ''
  end

  -- [digest, state, submitted at], or an empty list.
  local function known_task(prefix, id)
    local v = redis.call('HMGET', task_key(prefix, id), 'g', 'l', 'at')
    return v[2] and { v[1], (read_life(v[2])), v[3] } or {}
  end

  -- Answers a reply for a task that is not to be written, or nil.
  local function stands_already(prefix, task, now, seen)
    local id, digest = task[1], task[7]
    local known = seen[id] or known_task(prefix, id)
    if known[1] then
      local code = known[1] == digest and '' or 'conflict'
      return { code, id, known[2], tonumber(known[3]), false }
    end
    if task[10] ~= '' then
      local unique = prefix .. 'unique:' .. task[3] .. ':' .. task[10]
      local first = seen[unique] or redis.call('GET', unique)
      if first then
        local other = seen[first] or known_task(prefix, first)
        if other[1] then
          return { '', first, other[2], tonumber(other[3]), false }
        end
      end
    end
    local code = judge_new(id, now)
    if code ~= '' then
      return { code, id, '', now, false }
    end
  end

  local function due_of(task, now)
    if task[9] > 0 then
      return now + task[9]
    end
    return task[8] > now and task[8] or 0
  end

  local function write_hash(prefix, task, now, due, state, entry)
    local fields = {
      'l', life_text(state, 0, 0, entry or '-', '-', now), 'n', task[2], 'q', task[3], 'p', task[4],
      'd', task[5], 'o', task[6], 'g', task[7], 'at', now,
    }
    local function set(name, value)
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
    if due > 0 then set('due', due) end
    if task[10] ~= '' then set('u', task[10]) end
    if task[11] ~= '' then set('m', task[11]) end
    if task[12] ~= '' then set('t', task[12]) end
    redis.call('HSET', task_key(prefix, task[1]), unpack(fields))
  end

  local function submitted_detail(task, due, actor)
    local detail = {
      name = task[2], queue = task[3], priority = task[4], payload = task[5], options = task[6], digest = task[7],
    }
    if due > 0 then detail.due_ms = due end
    if task[10] ~= '' then detail.unique_key = task[10] end
    if task[11] ~= '' then detail.metadata = task[11] end
    if task[12] ~= '' then detail.trace = task[12] end
    if actor ~= '' then detail.actor = actor end
    return detail
  end

  local function accept(ctx, task, due, state, actor)
    local entry
    if due > 0 then
      redis.call('ZADD', ctx.prefix .. 'due', due, task[1])
    else
      entry = redis.call('XADD', ready_key(ctx.prefix, task[3], task[4]), '*', 't', task[1])
    end
    write_hash(ctx.prefix, task, ctx.now, due, state, entry)
    if task[10] ~= '' then
      redis.call('SET', ctx.prefix .. 'unique:' .. task[3] .. ':' .. task[10], task[1])
    end
    bump_name(ctx.counters, task[3], 'submitted:%', task[2])
    add_event(ctx.log, 'submitted', task[1], 0, 0, submitted_detail(task, due, actor))
  end

  local function submit(keys, args)
    local prefix, now = prefix_of(keys[1]), now_ms()
    local request = cmsgpack.unpack(args[1])
    local actor, tasks = request[1], request[2]
    local replies, seen, accepted = {}, {}, {}
    for i, task in ipairs(tasks) do
      local reply = stands_already(prefix, task, now, seen)
      if not reply then
        local due = due_of(task, now)
        local state = due > 0 and 'scheduled' or 'queued'
        reply = { '', task[1], state, now, true }
        accepted[#accepted + 1] = { task, due, state }
        seen[task[1]] = { task[7], state, now }
        if task[10] ~= '' then
          seen[prefix .. 'unique:' .. task[3] .. ':' .. task[10]] = task[1]
        end
      end
      replies[i] = reply
    end
    local ctx = new_context(prefix, now, '')
    for _, one in ipairs(accepted) do
      accept(ctx, one[1], one[2], one[3], actor)
    end
    close_context(ctx)
    return cmsgpack.pack(replies)
  end

  register('submit', submit, {})
end
