-- settle: end leases.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [owner, [finish, …]] (finish: see broker/protocol.py)
-- reply  packed [[state or 'fenced', again], …]
-- events succeeded retrying dead cancelled released parked fenced
-- Repeatable: the last settled lease of a task answers its state and writes nothing.
do
  local function settle(keys, args)
    local request = cmsgpack.unpack(args[1])
    local ctx = new_context(prefix_of(keys[1]), now_ms(), request[1])
    local settled = settle_into(ctx, request[2], request[1])
    close_context(ctx)
    return cmsgpack.pack(settled)
  end

  register('settle', settle, { 'allow-oom' })
end
