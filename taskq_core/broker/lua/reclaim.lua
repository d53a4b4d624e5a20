-- reclaim: act on leases that ran out, wherever their holder is.
--
-- KEYS   1 events stream of the shard
-- ARGV   1 packed [[[queue, stream], …], lease ms, most to act on, [suspects of the last scan], u]
-- reply  packed [at, [suspects], acted, more]
-- events retrying dead cancelled (outcome lease_expired), redelivered
-- An entry is acted upon at its second sighting, one scan apart: a holder that was merely slow has
-- renewed by then. XPENDING is paged: XAUTOCLAIM walks by id and starves behind live leases.
do
  local PAGE, PAGES = 100, 20

  local function holders(key)
    local found = {}
    for _, flat in ipairs(with_group(key, 'XINFO', 'CONSUMERS', key, GROUP)) do
      local one = fields_of(flat)
      if one.pending > 0 and one.name ~= RETURNED then
        found[#found + 1] = one.name
      end
    end
    return found
  end

  -- Every expired entry of a holder; true when the visitor has had enough.
  local function visit_expired(key, lease, holder, visit)
    local from = '-'
    for _ = 1, PAGES do
      local page = redis.call('XPENDING', key, GROUP, 'IDLE', lease, from, '+', PAGE, holder)
      for _, one in ipairs(page) do
        if not visit(one[1], holder) then
          return true
        end
      end
      if #page < PAGE then
        return false
      end
      from = '(' .. page[#page][1]
    end
    return true
  end

  -- Holder by holder: what was given back may stand there in thousands, and is nobody's lease.
  local function expired(key, lease, visit)
    for _, holder in ipairs(holders(key)) do
      if visit_expired(key, lease, holder, visit) then
        return true
      end
    end
    return false
  end

  local function reclaim(keys, args)
    local request = cmsgpack.unpack(args[1])
    local streams, lease, most, u = request[1], request[2], request[3], request[5]
    local ctx = new_context(prefix_of(keys[1]), now_ms(), '')
    local seen, suspects, acted, more = {}, {}, 0, false
    for _, mark in ipairs(request[4]) do
      seen[mark] = true
    end
    for _, pair in ipairs(streams) do
      local queue, stream = pair[1], pair[2]
      local key = ready_key(ctx.prefix, queue, stream)
      local cut = expired(key, lease, function(entry, consumer)
        local mark = key .. ' ' .. entry .. ' ' .. consumer
        if not seen[mark] then
          suspects[#suspects + 1] = mark
        elseif acted < most then
          acted = acted + 1
          recover_entry(ctx, queue, stream, entry, entry_task(key, entry), consumer, {
            op = 'fail', outcome = 'lease_expired', reason = 'the lease ran out', u = u,
            body = failure('LeaseExpired', 'the worker that ran it was not heard of for the length of a lease'),
          })
        else
          suspects[#suspects + 1] = mark
        end
        return #suspects < 1000
      end)
      more = more or cut
    end
    close_context(ctx)
    return cmsgpack.pack({ ctx.now, suspects, acted, more })
  end

  register('reclaim', reclaim, { 'allow-oom' })
end
