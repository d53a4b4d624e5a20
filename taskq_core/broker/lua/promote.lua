-- promote: move what is due into its ready stream, a hundred at most.
--
-- KEYS   1 events stream of the shard
-- ARGV   none
-- reply  packed [at, next due or 0, how many were moved]
-- events promoted
-- It also tells the head of the event stream once a second, if it moved since the last message.
do
  local MOST = 100
  local told = { second = 0, head = 0 }

  local function tell_head(prefix, now)
    local second = math.floor(now / 1000)
    if second == told.second then
      return
    end
    told.second = second
    local head = tonumber(redis.call('HGET', prefix .. 'meta', 'n') or 0)
    if head ~= told.head then
      told.head = head
      redis.call('SPUBLISH', prefix .. 'live', head .. ' 0 -\n')
    end
  end

  local function promote_one(ctx, id)
    local task = read_task(ctx.prefix, id)
    if task and (task.state == 'scheduled' or task.state == 'retrying') then
      enqueue(ctx, task)
      add_event(ctx.log, 'promoted', id, task.attempt, task.epoch, { queue = task.queue, name = task.name })
    end
  end

  local function promote(keys)
    local prefix, now = prefix_of(keys[1]), now_ms()
    local due = redis.call('ZRANGE', prefix .. 'due', '-inf', now, 'BYSCORE', 'LIMIT', 0, MOST)
    local ctx = new_context(prefix, now, '')
    for _, id in ipairs(due) do
      promote_one(ctx, id)
    end
    if #due > 0 then
      redis.call('ZREM', prefix .. 'due', unpack(due))
    end
    close_context(ctx)
    tell_head(prefix, now)
    local first = redis.call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')
    return cmsgpack.pack({ now, tonumber(first[2] or 0), #due })
  end

  register('promote', promote, { 'allow-oom' })
end
