-- Make a task ready: the entry goes to the tail of its stream.
local function enqueue(ctx, task)
  local entry = redis.call('XADD', ready_key(ctx.prefix, task.queue, task.stream), '*', 't', task.id)
  task.entry = entry
  redis.call('HSET', task.key, 'l', moved(task, 'queued', task.attempt, ctx.now))
  return entry
end
