-- settle_take: settle and take in one round trip, the steady state of a busy runner.
--
-- KEYS   as take
-- ARGV   1 packed [TakeWant, [finish, …]]
-- reply  as take, the settled list filled
-- events of settle and take, in one entry
do
  local function settle_take(keys, args)
    local request = cmsgpack.unpack(args[1])
    local want = request[1]
    local ctx = new_context(prefix_of(keys[1]), now_ms(), want[1])
    local settled = settle_into(ctx, request[2], want[1])
    write_gone(ctx)
    ctx.gone = {}
    local out = { claims = {}, payloads = {} }
    take_into(ctx, out, want)
    close_context(ctx)
    return taken_reply(ctx, out, settled)
  end

  register('settle_take', settle_take, { 'allow-oom' })
end
