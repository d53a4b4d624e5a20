-- trim: drop events that every durable group has acknowledged and that no reader's gap may need.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [keep ms, most entries to keep]
-- reply  packed [how many entries were dropped]
-- events none
-- The bound is computed here from the groups' state, never from an id remembered outside, and never by
-- length: MAXLEN would drop what nobody has read.
do
  local function older(a, b)
    local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
    local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
    a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
    return a_ms < b_ms or (a_ms == b_ms and tonumber(a_seq) < tonumber(b_seq))
  end

  -- The oldest entry that some group still needs; nil when there is no group.
  local function needed_from(key)
    local groups = redis.pcall('XINFO', 'GROUPS', key)
    local oldest
    for _, flat in ipairs(groups.err and {} or groups) do
      local group = fields_of(flat)
      local from = group['last-delivered-id']
      if group.pending > 0 then
        from = redis.call('XPENDING', key, group.name)[2]
      end
      if not oldest or older(from, oldest) then
        oldest = from
      end
    end
    return oldest
  end

  local function trim(keys, args)
    local request = cmsgpack.unpack(args[1])
    local key = keys[1]
    local bound = needed_from(key)
    if not bound then
      return cmsgpack.pack({ 0 })
    end
    local keep = redis.call('XLEN', key) > request[2] and 0 or request[1]
    local grace = string.format('%.0f-0', now_ms() - keep)
    if older(grace, bound) then
      bound = grace
    end
    return cmsgpack.pack({ redis.call('XTRIM', key, 'MINID', '=', bound) })
  end

  register('trim', trim, { 'allow-oom' })
end
