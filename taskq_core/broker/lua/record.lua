-- record: an operator's act, for the history.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [action, arguments (raw JSON), actor, reason, task_id or '']
-- reply  packed [at]
-- events action
do
  local function record(keys, args)
    local request = cmsgpack.unpack(args[1])
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    add_event(ctx.log, 'action', request[5], 0, 0, {
      action = request[1], arguments = request[2], actor = request[3], reason = request[4],
    })
    close_context(ctx)
    return cmsgpack.pack({ ctx.now })
  end

  register('record', record, { 'allow-oom' })
end
