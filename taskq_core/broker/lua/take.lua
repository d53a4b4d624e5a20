-- take: claim up to the free slots, in strict order of priority, queues of one priority in turn.
--
-- KEYS   1 events stream of the shard, then the ready streams that may be read
-- ARGV   1 packed TakeWant (see lib/claim.lua)
-- reply  [packed [at, [claim, …], []], payload, …]; a claim is [task_id, queue, stream, entry, epoch,
--        attempt, name, options, metadata, trace, submitted_at]
-- events started, redelivered
-- Repeatable: with `again` the caller's own leases are answered once more, with no event.
do
  local function take(keys, args)
    local want = cmsgpack.unpack(args[1])
    local ctx = new_context(prefix_of(keys[1]), now_ms(), want[1])
    local out = { claims = {}, payloads = {} }
    take_into(ctx, out, want)
    close_context(ctx)
    return taken_reply(ctx, out, {})
  end

  register('take', take, { 'allow-oom' })
end
