-- sweep: empty what a runner left pending, except what is known to be in its slots.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [owner, [[queue, stream], …], [known entries], [suspects of the last sweep], reason]
--        A dead runner is swept with no known entries and every entry already suspect: `suspects`
--        holds the single mark '*'.
-- reply  packed [at, [suspects], acted, more]
-- events released, redelivered
do
  local function sweep_stream(ctx, state, queue, stream)
    local key = ready_key(ctx.prefix, queue, stream)
    local page = with_group(key, 'XPENDING', key, GROUP, '-', '+', 500, state.owner)
    for _, one in ipairs(page) do
      local entry = one[1]
      local mark = key .. ' ' .. entry
      if not state.known[entry] then
        if state.seen['*'] or state.seen[mark] then
          state.acted = state.acted + 1
          recover_entry(ctx, queue, stream, entry, entry_task(key, entry), state.owner, {
            op = 'release', reason = state.reason,
          })
        else
          state.suspects[#state.suspects + 1] = mark
        end
      end
    end
    if #page == 0 and state.seen['*'] then
      redis.call('XGROUP', 'DELCONSUMER', key, GROUP, state.owner)
    end
    return #page == 500
  end

  local function sweep(keys, args)
    local request = cmsgpack.unpack(args[1])
    local state = { owner = request[1], known = {}, seen = {}, suspects = {}, acted = 0, reason = request[5] }
    for _, entry in ipairs(request[3]) do
      state.known[entry] = true
    end
    for _, mark in ipairs(request[4]) do
      state.seen[mark] = true
    end
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    local more = false
    for _, pair in ipairs(request[2]) do
      more = sweep_stream(ctx, state, pair[1], pair[2]) or more
    end
    close_context(ctx)
    return cmsgpack.pack({ ctx.now, state.suspects, state.acted, more })
  end

  register('sweep', sweep, { 'allow-oom' })
end
