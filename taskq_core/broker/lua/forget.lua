-- forget: the history holds the end of these tasks, so their hashes may expire.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[[task_id, ended_at], …]]; a task that has another life since is left alone
-- reply  packed [how many expiries were set]
-- events none
-- Only this starts the TTL: an accepted id is readable at every instant.
do
  local TOMBSTONE = 120000      -- W: an id younger than this must be found, or it could be accepted twice
  local DEAD = 7 * 86400 * 1000
  local DEAD_MOST = 100000

  local function ttl(state, result, options)
    if state == 'dead' then
      return DEAD
    elseif state == 'succeeded' and result and result ~= 'null' then
      return math.max(TOMBSTONE, math.floor(read_options(options)[7] * 1000))
    end
    return TOMBSTONE
  end

  -- Letters that are too old or too many leave the list; the history keeps them.
  local function bound_dead(prefix, now)
    redis.call('ZREMRANGEBYSCORE', prefix .. 'dead', '-inf', now - DEAD)
    local extra = redis.call('ZCARD', prefix .. 'dead') - DEAD_MOST
    if extra > 0 then
      local oldest = redis.call('ZPOPMIN', prefix .. 'dead', math.min(extra, 500))
      for i = 1, #oldest, 2 do
        redis.call('PEXPIRE', task_key(prefix, oldest[i]), TOMBSTONE)
      end
    end
  end

  local function forget(keys, args)
    local prefix = prefix_of(keys[1])
    local request = cmsgpack.unpack(args[1])
    local set = 0
    for _, pair in ipairs(request[1]) do
      local key = task_key(prefix, pair[1])
      local v = redis.call('HMGET', key, 'l', 'r', 'o')
      local state, _, _, _, _, since = read_life(v[1] or '')
      if since == pair[2] and (state == 'succeeded' or state == 'dead' or state == 'cancelled') then
        redis.call('PEXPIRE', key, ttl(state, v[2], v[3]))
        set = set + 1
      end
    end
    bound_dead(prefix, now_ms())
    return cmsgpack.pack({ set })
  end

  register('forget', forget, { 'allow-oom' })
end
