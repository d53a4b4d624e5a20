-- await: the end of a task, or a note on which channel to tell it.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [task_id, channel]; an empty channel only asks
-- reply  [state or '', result or '', error or '']
-- events none
do
  local MOST = 8

  local function note(key, channels, channel)
    local list, count = channels or '', 0
    for known in string.gmatch(list, '[^ ]+') do
      if known == channel then
        return
      end
      count = count + 1
    end
    if count < MOST then
      redis.call('HSET', key, 'ch', list == '' and channel or (list .. ' ' .. channel))
    end
  end

  local function await(keys, args)
    local request = cmsgpack.unpack(args[1])
    local key = task_key(prefix_of(keys[1]), request[1])
    local v = redis.call('HMGET', key, 'l', 'r', 'f', 'ch')
    if not v[1] then
      return { '', '', '' }
    end
    local state = read_life(v[1])
    local ended = state == 'succeeded' or state == 'dead' or state == 'cancelled'
    if not ended and request[2] ~= '' then
      note(key, v[4], request[2])
    end
    return { state, v[2] or '', v[3] or '' }
  end

  register('await', await, { 'allow-oom' })
end
