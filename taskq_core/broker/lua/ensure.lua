-- ensure: the groups of these queues' streams, and the shard's own marks.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[queues], [streams], lease ms or 0]
-- reply  packed [lease ms that this system uses, incarnation]
-- events none
do
  local function ensure(keys, args)
    local prefix = prefix_of(keys[1])
    local request = cmsgpack.unpack(args[1])
    redis.pcall('XGROUP', 'CREATE', keys[1], 'audit', '0', 'MKSTREAM')
    for _, queue in ipairs(request[1]) do
      redis.call('SADD', prefix .. 'queues', queue)
      for _, stream in ipairs(request[2]) do
        make_group(ready_key(prefix, queue, stream))
      end
    end
    redis.call('HSETNX', prefix .. 'meta', 'incarnation', 1)
    if request[3] > 0 then
      redis.call('HSETNX', prefix .. 'meta', 'lease', request[3])
    end
    local v = redis.call('HMGET', prefix .. 'meta', 'lease', 'incarnation')
    return cmsgpack.pack({ tonumber(v[1] or 0), tonumber(v[2]) })
  end

  register('ensure', ensure, { 'allow-oom' })
end
