-- Claiming: a ready entry becomes a lease. `want` is TakeWant by position:
-- [owner, code_version, budgets, queues, streams, rotation, held, again, known].

local function free_slots(budgets, kinds)
  local free = budgets[kinds[1]]
  for i = 2, #kinds do
    free = math.min(free, budgets[kinds[i]])
  end
  return free
end

local function use_slot(budgets, kinds)
  for _, kind in ipairs(kinds) do
    budgets[kind] = budgets[kind] - 1
  end
end

local CLAIM_FIELDS = { 'l', 'n', 'd', 'o', 'm', 't', 'at' }

local function answer_claim(out, id, queue, stream, entry, epoch, attempt, v)
  out.claims[#out.claims + 1] = {
    id, queue, stream, entry, epoch, attempt, v[2], v[4] or '', v[5] or '', v[6] or '', tonumber(v[7]),
  }
  out.payloads[#out.payloads + 1] = v[3]
end

-- Claim one entry that this owner has pending. False when the entry leads to no task that waits.
local function claim_entry(ctx, out, want, queue, stream, entry, id)
  local key = task_key(ctx.prefix, id)
  local v = redis.call('HMGET', key, unpack(CLAIM_FIELDS))
  local state, epoch, attempt, waiting, owner = read_life(v[1] or '')
  if state == 'running' and waiting == entry and owner ~= want[1] then
    -- Someone runs it: the entry is the lease, and goes back to whose it is.
    redis.call('XCLAIM', ready_key(ctx.prefix, queue, stream), GROUP, owner, 0, entry, 'JUSTID')
    return false
  elseif state ~= 'queued' or waiting ~= entry then
    drop_entry(ctx.prefix, queue, stream, entry)
    return false
  end
  epoch, attempt = epoch + 1, attempt + 1
  redis.call('HSET', key, 'l', life_text('running', epoch, attempt, entry, want[1], ctx.now_text))
  local name, wait = v[2], ctx.now - entry_ms(entry)
  bump_name(ctx.counters, queue, 'started:%', name)
  bump_duration(ctx.counters, queue, 'wait', wait)
  add_event(ctx.log, 'started', id, attempt, epoch, {
    wait_ms = wait, name = name, queue = queue, code_version = want[2],
  })
  answer_claim(out, id, queue, stream, entry, epoch, attempt, v)
  return true
end

-- What was given back comes before what was never delivered.
local function take_returned(ctx, out, want, queue, stream, count, kinds)
  local key = ready_key(ctx.prefix, queue, stream)
  local pending = with_group(key, 'XPENDING', key, GROUP, '-', '+', count, RETURNED)
  local field = 'ret:' .. stream
  if #pending == 0 then
    redis.call('HSET', ctx.prefix .. 'queue:' .. queue, field, 0)
    return
  end
  local entries = {}
  for i, one in ipairs(pending) do
    entries[i] = one[1]
  end
  redis.call('HINCRBY', ctx.prefix .. 'queue:' .. queue, field, -#entries)
  local claimed = redis.call('XCLAIM', key, GROUP, want[1], 0, unpack(entries))
  for _, item in ipairs(claimed) do
    if item and claim_entry(ctx, out, want, queue, stream, item[1], item[2][2]) then
      use_slot(want[3], kinds)
    end
  end
end

local function take_new(ctx, out, want, queue, stream, count, kinds)
  local key = ready_key(ctx.prefix, queue, stream)
  local reply = with_group(
    key, 'XREADGROUP', 'GROUP', GROUP, want[1], 'COUNT', count, 'STREAMS', key, '>'
  )
  if not reply then
    return
  end
  for _, item in ipairs(reply[1][2]) do
    if claim_entry(ctx, out, want, queue, stream, item[1], item[2][2]) then
      use_slot(want[3], kinds)
    end
  end
end

local function return_held(ctx, queue, stream, entry, id)
  local task = read_task(ctx.prefix, id)
  if not task or task.state ~= 'queued' or task.entry ~= entry then
    return drop_entry(ctx.prefix, queue, stream, entry)
  end
  give_back(ctx.prefix, queue, stream, entry)
  add_event(ctx.log, 'redelivered', id, task.attempt, task.epoch, { queue = queue, reason = 'no free slot' })
end

-- Entries that the blocking read brought: claim what has room, give the rest back. One that is not the
-- caller's any more was given back meanwhile, and may be another runner's lease by now: hands off.
local function take_held(ctx, out, want, kinds_of, state_of)
  for _, held in ipairs(want[7]) do
    local queue, stream, entry, id = held[1], held[2], held[3], held[4]
    local kinds, key = kinds_of[queue], ready_key(ctx.prefix, queue, stream)
    if redis.call('XPENDING', key, GROUP, entry, entry, 1, want[1])[1] then
      if not kinds or state_of[queue][1] or free_slots(want[3], kinds) < 1 then
        return_held(ctx, queue, stream, entry, id)
      elseif claim_entry(ctx, out, want, queue, stream, entry, id) then
        use_slot(want[3], kinds)
      end
    end
  end
end

-- After a lost answer: tell this owner again what it holds by the books and does not know of.
local function answer_again(ctx, out, want)
  local known = {}
  for _, id in ipairs(want[9]) do
    known[id] = true
  end
  for _, wanted in ipairs(want[4]) do
    for _, stream in ipairs(want[5]) do
      local key = ready_key(ctx.prefix, wanted[1], stream)
      local reply = with_group(
        key, 'XREADGROUP', 'GROUP', GROUP, want[1], 'COUNT', 500, 'STREAMS', key, '0'
      )
      for _, item in ipairs(reply and reply[1][2] or {}) do
        local id = item[2] and item[2][2]
        if id and not known[id] then
          local v = redis.call('HMGET', task_key(ctx.prefix, id), unpack(CLAIM_FIELDS))
          local state, epoch, attempt, held, owner = read_life(v[1] or '')
          if state == 'running' and held == item[1] and owner == want[1] then
            use_slot(want[3], wanted[2])
            answer_claim(out, id, wanted[1], stream, item[1], epoch, attempt, v)
          elseif claim_entry(ctx, out, want, wanted[1], stream, item[1], id) then
            use_slot(want[3], wanted[2])
          end
        end
      end
    end
  end
end

local RET_FIELD = { high = 2, normal = 3, low = 4, solo = 5 }

local function take_into(ctx, out, want)
  local queues, budgets = want[4], want[3]
  local kinds_of, state_of = {}, {}
  for _, wanted in ipairs(queues) do
    kinds_of[wanted[1]] = wanted[2]
    state_of[wanted[1]] = redis.call(
      'HMGET', ctx.prefix .. 'queue:' .. wanted[1], 'paused', 'ret:high', 'ret:normal', 'ret:low', 'ret:solo'
    )
  end
  take_held(ctx, out, want, kinds_of, state_of)
  if want[8] then
    answer_again(ctx, out, want)
  end
  local total = #queues
  for _, stream in ipairs(want[5]) do
    for step = 0, total - 1 do
      local wanted = queues[(want[6] + step) % total + 1]
      local queue, kinds = wanted[1], wanted[2]
      local state = state_of[queue]
      if not state[1] then
        local free = free_slots(budgets, kinds)
        local returned = tonumber(state[RET_FIELD[stream]] or 0)
        if free > 0 and returned > 0 then
          take_returned(ctx, out, want, queue, stream, free, kinds)
          free = free_slots(budgets, kinds)
        end
        if free > 0 then
          take_new(ctx, out, want, queue, stream, free, kinds)
        end
      end
    end
  end
end

-- The answer of take and settle_take: a packed head, then each claim's payload as it was accepted.
local function taken_reply(ctx, out, settled)
  return { cmsgpack.pack({ ctx.now, out.claims, settled }), unpack(out.payloads) }
end
