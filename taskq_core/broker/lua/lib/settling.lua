-- A list of finishes, by position as broker/protocol.py names them.

local function named_finish(f)
  return {
    id = f[1], entry = f[2], epoch = f[3], op = f[4], outcome = f[5], run_ms = f[6], body = f[7], u = f[8],
    reason = f[9], cpu_ms = f[10], peak_rss = f[11], owner = f[12], solo = f[13],
  }
end

local function fence(ctx, task, fin)
  add_event(ctx.log, 'fenced', fin.id, task and task.attempt or 0, task and task.epoch or 0, {
    epochs = fin.epoch .. ':' .. fin.entry, reason = 'the lease had ended', outcome = fin.op,
  })
  return { 'fenced', false }
end

-- Success is by far the most frequent end: it is written without the tables that the others use.
local function succeed(ctx, f, key, v, epoch, attempt, entry, owner)
  local queue, name, run_ms = v[2], v[4], f[6]
  redis.call('HSET', key, 'l', life_text('succeeded', epoch, attempt, entry, owner, ctx.now_text), 'r', f[7])
  mark_gone(ctx, queue, v[3], entry)
  local detail = { name = name, queue = queue, run_ms = run_ms, result = f[7] }
  if f[10] >= 0 then
    detail.cpu_ms = f[10]
    detail.peak_rss = f[11]
  end
  add_event(ctx.log, 'succeeded', f[1], attempt, epoch, detail)
  bump_name(ctx.counters, queue, 'attempt:%:succeeded', name)
  bump_name(ctx.counters, queue, 'ended:%:succeeded', name)
  bump_duration(ctx.counters, queue, 'run', run_ms)
  if v[6] then
    free_unique(ctx, queue, v[6], f[1])
  end
  if v[7] then
    tell_waiting(key, v[7], f[1], 'succeeded')
  end
  return { 'succeeded', false }
end

-- All three must match: epoch, owner, entry. A repeat of the last settled lease is no late report: nobody
-- has claimed the task since.
local function settle_one(ctx, f, owner)
  local id, key = f[1], task_key(ctx.prefix, f[1])
  local v = redis.call('HMGET', key, unpack(TASK_FIELDS))
  if not v[1] then
    return fence(ctx, nil, named_finish(f))
  end
  local state, epoch, attempt, entry, holder, since = read_life(v[1])
  local reporter = f[12] ~= '' and f[12] or owner
  if state == 'running' and epoch == f[3] and entry == f[2] and holder == reporter then
    if f[4] == 'ok' then
      return succeed(ctx, f, key, v, epoch, attempt, entry, holder)
    end
    return { finish(ctx, named_task(id, key, v), named_finish(f)), false }
  end
  if state ~= 'running' and epoch == f[3] and holder == reporter then
    return { state, true }
  end
  return fence(ctx, { attempt = attempt, epoch = epoch }, named_finish(f))
end

local function settle_into(ctx, finishes, owner)
  local settled = {}
  for i, item in ipairs(finishes) do
    settled[i] = settle_one(ctx, item, owner)
  end
  return settled
end
