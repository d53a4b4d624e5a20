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

-- All three must match: epoch, owner, entry. A repeat of the last settled lease is no late report: nobody has claimed the task since.
local function settle_one(ctx, fin, owner)
  local task = read_task(ctx.prefix, fin.id)
  if not task then
    return fence(ctx, nil, fin)
  end
  local holder = fin.owner ~= '' and fin.owner or owner
  if task.state == 'running' and task.epoch == fin.epoch and task.entry == fin.entry and task.owner == holder then
    return { finish(ctx, task, fin), false }
  end
  if task.state ~= 'running' and task.epoch == fin.epoch and task.owner == holder then
    return { task.state, true }
  end
  return fence(ctx, task, fin)
end

local function settle_into(ctx, finishes, owner)
  local settled = {}
  for i, item in ipairs(finishes) do
    settled[i] = settle_one(ctx, named_finish(item), owner)
  end
  return settled
end
