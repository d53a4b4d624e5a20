-- The field `l` of a task hash: where the task stands, in one field, since a field costs as much to
-- write as a command. Six words: state, epoch, attempt, entry, owner, since.
--
-- `entry` is the ready entry of a queued or running task, else of the last one; `owner` holds the lease
-- of a running task, else held the last one; `since` is when the state began (server ms).

local function read_life(text)
  local state, epoch, attempt, entry, owner, since =
    string.match(text, '^(%S+) (%d+) (%d+) (%S+) (%S+) (%d+)$')
  return state, tonumber(epoch), tonumber(attempt), entry, owner, tonumber(since)
end

-- Making a number's text costs more than a lookup, and nearly all are small.
local SMALL = {}

local function small_text(n)
  local text = SMALL[n]
  if not text then
    text = string.format('%.0f', n)
    if n < 1000 then
      SMALL[n] = text
    end
  end
  return text
end

local function life_text(state, epoch, attempt, entry, owner, since)
  return state .. ' ' .. small_text(epoch) .. ' ' .. small_text(attempt) .. ' ' .. entry .. ' ' .. owner .. ' ' .. since
end

local TASK_FIELDS = { 'l', 'q', 'p', 'n', 'c', 'u', 'ch' }

-- A task on its way through a function, from the values of TASK_FIELDS.
local function named_task(id, key, v)
  local state, epoch, attempt, entry, owner, since = read_life(v[1])
  return {
    id = id, key = key, state = state, epoch = epoch, attempt = attempt, entry = entry, owner = owner,
    since = since, queue = v[2], stream = v[3], name = v[4], cancel = v[5], unique = v[6], channels = v[7],
  }
end

-- The same by its id; nil when there is no such task.
local function read_task(prefix, id)
  local key = task_key(prefix, id)
  local v = redis.call('HMGET', key, unpack(TASK_FIELDS))
  return v[1] and named_task(id, key, v) or nil
end

-- The text of the task's life after a change of state; what is not named stays.
local function moved(task, state, attempt, now)
  return life_text(state, task.epoch, attempt, task.entry, task.owner, now)
end
