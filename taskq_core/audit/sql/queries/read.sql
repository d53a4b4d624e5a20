-- name: list_tasks
-- Tasks, newest first, before a cursor; at most one value per filter, so that an index gives the order.
SELECT id::text, state, name, queue, priority, payload, metadata, attempt, max_attempts,
       (extract(epoch FROM submitted_at) * 1000)::bigint AS submitted_at,
       (extract(epoch FROM due_at) * 1000)::bigint AS due_at,
       (extract(epoch FROM started_at) * 1000)::bigint AS started_at,
       (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
       wait_s, run_s, worker, code_version, unique_key, progress, result, error, trace_id, lives, epoch,
       incarnation, ms, seq, idx
FROM taskq.task AS t
WHERE (%(state)s::text IS NULL OR state = %(state)s)
  AND (%(queue)s::text IS NULL OR queue = %(queue)s)
  AND (%(name)s::text IS NULL OR name = %(name)s)
  AND (%(before)s::uuid IS NULL OR id < %(before)s)
  AND (%(since)s::uuid IS NULL OR id >= %(since)s)
ORDER BY t.id DESC
LIMIT %(limit)s;

-- name: list_tasks_of_many
-- Tasks, newest first, before a cursor; any number of values per filter.
SELECT id::text, state, name, queue, priority, payload, metadata, attempt, max_attempts,
       (extract(epoch FROM submitted_at) * 1000)::bigint AS submitted_at,
       (extract(epoch FROM due_at) * 1000)::bigint AS due_at,
       (extract(epoch FROM started_at) * 1000)::bigint AS started_at,
       (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
       wait_s, run_s, worker, code_version, unique_key, progress, result, error, trace_id, lives, epoch,
       incarnation, ms, seq, idx
FROM taskq.task AS t
WHERE (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
  AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s))
  AND (%(names)s::text[] IS NULL OR name = ANY (%(names)s))
  AND (%(before)s::uuid IS NULL OR id < %(before)s)
  AND (%(since)s::uuid IS NULL OR id >= %(since)s)
ORDER BY t.id DESC
LIMIT %(limit)s;

-- name: tasks_by_id
-- Some tasks by their ids.
SELECT id::text, state, name, queue, priority, payload, metadata, attempt, max_attempts,
       (extract(epoch FROM submitted_at) * 1000)::bigint AS submitted_at,
       (extract(epoch FROM due_at) * 1000)::bigint AS due_at,
       (extract(epoch FROM started_at) * 1000)::bigint AS started_at,
       (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
       wait_s, run_s, worker, code_version, unique_key, progress, result, error, trace_id, lives, epoch,
       incarnation, ms, seq, idx
FROM taskq.task AS t
WHERE id = ANY (%(ids)s::uuid[]);

-- name: events_of_task
-- The events of a task, oldest first, after an event number.
SELECT shard, incarnation, ms, seq, idx, n, (extract(epoch FROM at) * 1000)::bigint AS at,
       task_id::text, kind, attempt, epoch, worker, actor, reason, detail
FROM taskq.events
WHERE task_id = %(id)s AND day >= (taskq.time_of(%(id)s) AT TIME ZONE 'UTC')::date - 1
ORDER BY incarnation, ms, seq, idx
LIMIT %(limit)s OFFSET %(offset)s;

-- name: events_after
-- The events of a shard from one number on, oldest first: what a follower missed.
SELECT shard, incarnation, ms, seq, idx, n, (extract(epoch FROM at) * 1000)::bigint AS at,
       task_id::text, kind, attempt, epoch, worker, actor, reason, detail
FROM taskq.events
WHERE shard = %(shard)s AND n > %(n)s
ORDER BY n, incarnation
LIMIT %(limit)s;

-- name: newest_events
-- The newest events of a shard, newest first, before a number.
SELECT shard, incarnation, ms, seq, idx, n, (extract(epoch FROM at) * 1000)::bigint AS at,
       task_id::text, kind, attempt, epoch, worker, actor, reason, detail
FROM taskq.events
WHERE shard = %(shard)s AND (%(before)s::bigint IS NULL OR n < %(before)s)
ORDER BY n DESC, incarnation DESC
LIMIT %(limit)s;

-- name: attempts_of_task
-- The attempts of a task, oldest first.
SELECT task_id::text, epoch, number, outcome,
       (extract(epoch FROM started_at) * 1000)::bigint AS started_at,
       (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
       wait_s, run_s, cpu_s, peak_rss, worker, error, code_version, counted
FROM taskq.attempts
WHERE task_id = %(id)s
ORDER BY epoch
LIMIT %(limit)s;

-- name: list_actions
-- What operators did, newest first, before a moment.
SELECT shard, incarnation, ms, seq, idx, (extract(epoch FROM at) * 1000)::bigint AS at,
       action, arguments, actor, reason, task_id::text
FROM taskq.actions AS a
WHERE %(before)s::bigint IS NULL OR a.at < to_timestamp(%(before)s / 1000.0)
ORDER BY a.at DESC, ms DESC, seq DESC, idx DESC
LIMIT %(limit)s;

-- name: positions
-- How far each shard is committed.
SELECT shard, incarnation, ms, seq, n, (extract(epoch FROM at) * 1000)::bigint AS at
FROM taskq.relay_position
ORDER BY shard;

-- name: count_tasks
-- Tasks per state since a moment (an id), of one queue or all.
SELECT state, count(*)
FROM taskq.tasks
WHERE (%(queue)s::text IS NULL OR queue = %(queue)s) AND (%(since)s::uuid IS NULL OR id >= %(since)s)
GROUP BY state;

-- name: payload_of_task
-- The accepted bytes of a task.
SELECT task_id::text, raw, digest, options, metadata
FROM taskq.payloads
WHERE task_id = %(id)s;

-- name: own_role
-- Back to the role that connected, for the rest of the transaction: readers may not see raw payloads.
SET LOCAL ROLE NONE;

-- name: become_reader
-- The rights of a reader, where the role exists and may be taken; true when it may.
SELECT coalesce((SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = 'taskq_reader'),
                false);

-- name: set_reader
-- From now on only what a reader may.
SET ROLE taskq_reader;
