-- How a lease ends when it does not end well: settle, sweep and reclaim all come through here.
--
-- `ctx` is one call: prefix, now, log, counters, and the entries to acknowledge by stream key.
-- `task` is what read_task gave. `fin` is [task_id, entry, epoch, op, outcome, run_ms, body, u, reason,
-- cpu_ms, peak_rss, owner, solo] by name.

local MAX_EXPONENT = 63

local function new_context(prefix, now, worker)
  return {
    prefix = prefix,
    now = now,
    now_text = string.format('%.0f', now),
    log = new_log(prefix, now, worker),
    counters = new_counters(prefix),
    gone = {},
  }
end

-- Entries that are done with are acknowledged and deleted in one command per stream.
local function mark_gone(ctx, queue, stream, entry)
  local streams = ctx.gone[queue]
  if not streams then
    streams = {}
    ctx.gone[queue] = streams
  end
  local list = streams[stream]
  if not list then
    list = {}
    streams[stream] = list
  end
  list[#list + 1] = entry
end

local function write_gone(ctx)
  for queue, streams in pairs(ctx.gone) do
    for stream, list in pairs(streams) do
      local key = ready_key(ctx.prefix, queue, stream)
      redis.pcall('XACK', key, GROUP, unpack(list))
      redis.call('XDEL', key, unpack(list))
    end
  end
end

local function tell_waiting(key, channels, id, state)
  for channel in string.gmatch(channels, '[^ ]+') do
    redis.call('SPUBLISH', channel, id .. ' ' .. state)
  end
  redis.call('HDEL', key, 'ch')
end

local function free_unique(ctx, queue, unique, id)
  local key = ctx.prefix .. 'unique:' .. queue .. ':' .. unique
  if redis.call('GET', key) == id then
    redis.call('DEL', key)
  end
end

-- The task has ended; its hash is already written.
local function end_life(ctx, task, state)
  if state == 'dead' then
    redis.call('ZADD', ctx.prefix .. 'dead', ctx.now, task.id)
  end
  bump(ctx.counters, task.queue, 'ended:' .. task.name .. ':' .. state, 1)
  if task.unique then
    free_unique(ctx, task.queue, task.unique, task.id)
  end
  if task.channels then
    tell_waiting(task.key, task.channels, task.id, state)
  end
end

local function attempt_detail(task, fin)
  local detail = { name = task.name, queue = task.queue, run_ms = fin.run_ms }
  if fin.owner ~= '' then
    detail.owner = fin.owner
  end
  if fin.reason ~= '' then
    detail.reason = fin.reason
  end
  if fin.cpu_ms >= 0 then
    detail.cpu_ms = fin.cpu_ms
  end
  if fin.peak_rss >= 0 then
    detail.peak_rss = fin.peak_rss
  end
  return detail
end

local function cancel_running(ctx, task, fin)
  redis.call('HSET', task.key, 'l', moved(task, 'cancelled', task.attempt, ctx.now))
  mark_gone(ctx, task.queue, task.stream, task.entry)
  local detail = attempt_detail(task, fin)
  detail.outcome = 'cancelled'
  detail.actor = task.cancel or nil
  add_event(ctx.log, 'cancelled', task.id, task.attempt, task.epoch, detail)
  end_life(ctx, task, 'cancelled')
  return 'cancelled'
end

local function die(ctx, task, fin, counted)
  redis.call('HSET', task.key, 'l', moved(task, 'dead', counted and task.attempt or task.attempt - 1, ctx.now), 'f', fin.body)
  mark_gone(ctx, task.queue, task.stream, task.entry)
  local detail = attempt_detail(task, fin)
  detail.outcome = fin.outcome
  detail.error = fin.body
  if not counted then
    detail.counted = false
  end
  add_event(ctx.log, 'dead', task.id, task.attempt, task.epoch, detail)
  end_life(ctx, task, 'dead')
  return 'dead'
end

-- options: [max_attempts, base, factor, cap, jitter, timeout, result_ttl]. Damaged ones must not fail the
-- call, whose other tasks are half written by now.
local DEFAULT_OPTIONS = { 4, 1, 2, 3600, 0, nil, 300 }

local function read_options(text)
  local ok, options = pcall(cjson.decode, text or '')
  return ok and type(options) == 'table' and options or DEFAULT_OPTIONS
end

local function delay_ms(options, failures, u)
  local power = math.min(failures - 1, MAX_EXPONENT)
  local seconds = math.min(options[2] * options[3] ^ power, options[4])
  return math.floor(seconds * (1 + u * options[5]) * 1000)
end

local function retry_later(ctx, task, fin, options, failures, counted)
  local due = ctx.now + delay_ms(options, failures, fin.u)
  local attempt = counted and task.attempt or task.attempt - 1
  redis.call('HSET', task.key, 'l', moved(task, 'retrying', attempt, ctx.now), 'due', due, 'f', fin.body)
  redis.call('HSETNX', task.key, 'fs', task.since)
  mark_gone(ctx, task.queue, task.stream, task.entry)
  redis.call('ZADD', ctx.prefix .. 'due', due, task.id)
  local detail = attempt_detail(task, fin)
  detail.outcome = fin.outcome
  detail.error = fin.body
  detail.due_ms = due
  if not counted then
    detail.counted = false
  end
  add_event(ctx.log, 'retrying', task.id, task.attempt, task.epoch, detail)
  return 'retrying'
end

-- From now on only a quarantine runner, which runs one task at a time, may take it.
local function make_solo(task)
  if task.stream ~= SOLO then
    redis.call('HSET', task.key, 'p', SOLO, 'b', task.stream)
  end
end

local function fail(ctx, task, fin)
  local options = read_options(redis.call('HGET', task.key, 'o'))
  local counted = fin.op ~= 'shared_crash'
  local failures = task.attempt
  if fin.solo then
    failures = redis.call('HINCRBY', task.key, 'k', 1)
  end
  if counted then
    failures = task.attempt
  end
  bump(ctx.counters, task.queue, 'attempt:' .. task.name .. ':' .. fin.outcome, 1)
  if fin.op == 'permanent' or failures >= options[1] then
    return die(ctx, task, fin, counted)
  end
  local state = retry_later(ctx, task, fin, options, failures, counted)
  if fin.solo then
    make_solo(task)
  end
  return state
end

local function release(ctx, task, fin)
  local interrupted = fin.op == 'interrupt' and redis.call('HINCRBY', task.key, 'i', 1) or 0
  if interrupted >= 2 and task.stream ~= SOLO then
    mark_gone(ctx, task.queue, task.stream, task.entry)
    make_solo(task)
    task.entry = redis.call('XADD', ready_key(ctx.prefix, task.queue, SOLO), '*', 't', task.id)
  else
    give_back(ctx.prefix, task.queue, task.stream, task.entry)
  end
  redis.call('HSET', task.key, 'l', moved(task, 'queued', task.attempt - 1, ctx.now))
  redis.call('HSETNX', task.key, 'fs', task.since)
  -- A blocking read does not see what was given back: tell the workers to ask.
  redis.call('PUBLISH', 'taskq:control', cjson.encode({ op = 'returned', queue = task.queue }))
  bump(ctx.counters, task.queue, 'attempt:' .. task.name .. ':released', 1)
  add_event(ctx.log, 'released', task.id, task.attempt, task.epoch, attempt_detail(task, fin))
  return 'queued'
end

local function park(ctx, task, fin)
  redis.call('HSET', task.key, 'l', moved(task, 'parked', task.attempt - 1, ctx.now))
  redis.call('HSETNX', task.key, 'fs', task.since)
  mark_gone(ctx, task.queue, task.stream, task.entry)
  redis.call('ZADD', ctx.prefix .. 'parked', ctx.now, task.id)
  add_event(ctx.log, 'parked', task.id, task.attempt, task.epoch, attempt_detail(task, fin))
  return 'parked'
end

-- End the lease of a task that is running under it, other than by success. Answers the new state.
local function finish(ctx, task, fin)
  local op = fin.op
  local state
  if op == 'cancel' or task.cancel then
    bump(ctx.counters, task.queue, 'attempt:' .. task.name .. ':cancelled', 1)
    state = cancel_running(ctx, task, fin)
  elseif op == 'release' or op == 'interrupt' then
    return release(ctx, task, fin)
  elseif op == 'park' then
    return park(ctx, task, fin)
  else
    state = fail(ctx, task, fin)
  end
  bump_duration(ctx.counters, task.queue, 'run', fin.run_ms)
  return state
end

local function close_context(ctx)
  write_gone(ctx)
  write_counters(ctx.counters)
  write_log(ctx.log)
end
