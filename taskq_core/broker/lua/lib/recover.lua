-- What to do with an entry whose holder will not come back.

local function failure(reason_type, message)
  return cjson.encode({ type = reason_type, message = message, traceback = cjson.null, fingerprint = reason_type })
end

-- A running task fails with `outcome` (or is released when op says so), a task that was never claimed
-- goes back into the line, an entry that leads nowhere is dropped. Answers whether anything was done.
local function recover_entry(ctx, queue, stream, entry, id, consumer, how)
  local task = id and read_task(ctx.prefix, id)
  if not task or task.entry ~= entry or (task.state ~= 'running' and task.state ~= 'queued') then
    drop_entry(ctx.prefix, queue, stream, entry)
    return
  end
  if task.state == 'queued' then
    give_back(ctx.prefix, queue, stream, entry)
    add_event(ctx.log, 'redelivered', id, task.attempt, task.epoch, {
      queue = queue, reason = how.reason, owner = consumer,
    })
    return
  end
  if task.owner ~= consumer then
    return
  end
  finish(ctx, task, {
    id = id, entry = entry, epoch = task.epoch, op = how.op, outcome = how.outcome or '',
    run_ms = ctx.now - task.since, body = how.body or '', u = how.u or 0, reason = how.reason,
    cpu_ms = -1, peak_rss = -1, owner = consumer, solo = false,
  })
end

-- The task id in a pending entry; nil when the entry was deleted from the stream.
local function entry_task(key, entry)
  local found = redis.call('XRANGE', key, entry, entry)
  return found[1] and found[1][2][2]
end
