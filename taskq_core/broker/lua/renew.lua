-- renew: keep leases alive; the pending entry's idle time on the server is the lease.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [owner, [[task_id, entry, epoch], …]]
-- reply  packed [at, [task ids whose lease is lost], [task ids whose cancellation was asked]]
-- events none
-- The holder is checked first: a claim without that check would steal an entry that moved on.
do
  local function renew(keys, args)
    local prefix, now = prefix_of(keys[1]), now_ms()
    local request = cmsgpack.unpack(args[1])
    local owner = request[1]
    local lost, cancelled, streams = {}, {}, {}
    for _, lease in ipairs(request[2]) do
      local task = read_task(prefix, lease[1])
      if task and task.state == 'running' and task.owner == owner and task.entry == lease[2]
        and task.epoch == lease[3] then
        local key = ready_key(prefix, task.queue, task.stream)
        streams[key] = streams[key] or {}
        table.insert(streams[key], lease[2])
        if task.cancel then
          cancelled[#cancelled + 1] = lease[1]
        end
      else
        lost[#lost + 1] = lease[1]
      end
    end
    for key, entries in pairs(streams) do
      entries[#entries + 1] = 'JUSTID'
      redis.call('XCLAIM', key, GROUP, owner, 0, unpack(entries))
    end
    return cmsgpack.pack({ now, lost, cancelled })
  end

  register('renew', renew, { 'allow-oom' })
end
