-- gc_consumer: forget a consumer that holds nothing. DELCONSUMER drops pending entries silently, so
-- that it holds nothing is checked in the same call.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[[queue, stream], …], idle ms, [consumers that live]]
-- reply  packed [how many were removed]
-- events none
do
  local function gc_consumer(keys, args)
    local prefix = prefix_of(keys[1])
    local request = cmsgpack.unpack(args[1])
    local alive, removed = { [RETURNED] = true }, 0
    for _, name in ipairs(request[3]) do
      alive[name] = true
    end
    for _, pair in ipairs(request[1]) do
      local key = ready_key(prefix, pair[1], pair[2])
      local consumers = redis.pcall('XINFO', 'CONSUMERS', key, GROUP)
      for _, flat in ipairs(consumers.err and {} or consumers) do
        local one = fields_of(flat)
        if one.pending == 0 and one.idle >= request[2] and not alive[one.name] then
          redis.call('XGROUP', 'DELCONSUMER', key, GROUP, one.name)
          removed = removed + 1
        end
      end
    end
    return cmsgpack.pack({ removed })
  end

  register('gc_consumer', gc_consumer, { 'allow-oom' })
end
