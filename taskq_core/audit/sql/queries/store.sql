-- name: stage_events
-- Where a batch of events lies for a moment; a session's own, empty after each COMMIT.
CREATE TEMP TABLE stage_events (LIKE taskq.events) ON COMMIT DELETE ROWS;

-- name: stage_tasks
-- As stage_events, for what a batch says of tasks.
CREATE TEMP TABLE stage_tasks (LIKE taskq.tasks) ON COMMIT DELETE ROWS;

-- name: stage_attempts
-- As stage_events, for what a batch says of attempts.
CREATE TEMP TABLE stage_attempts (LIKE taskq.attempts) ON COMMIT DELETE ROWS;

-- name: stage_payloads
-- As stage_events, for the accepted bytes.
CREATE TEMP TABLE stage_payloads (LIKE taskq.payloads) ON COMMIT DELETE ROWS;

-- name: copy_events
-- A batch of events.
COPY stage_events (day, shard, incarnation, ms, seq, idx, n, at, task_id, kind, attempt, epoch, worker, actor,
                   reason, detail, digest) FROM STDIN (FORMAT binary);

-- name: copy_tasks
-- What a batch says of tasks.
COPY stage_tasks (id, shard, incarnation, ms, seq, idx, state, attempt, ended_at, name, queue, max_attempts,
                  submitted_at, unique_key, trace_id, metadata, lives, life_epoch, payload_order, payload,
                  priority_order, priority, due_order, due_at, progress_order, progress_epoch, progress, started_at,
                  start_epoch, worker, code_version, wait_s, end_epoch, run_s, result, error_epoch, error_type,
                  error_message, fingerprint, error) FROM STDIN (FORMAT binary);

-- name: copy_attempts
-- What a batch says of attempts.
COPY stage_attempts (task_id, epoch, number, started_at, ended_at, outcome, worker, wait_s, run_s, cpu_s, peak_rss,
                     error, code_version, counted) FROM STDIN (FORMAT binary);

-- name: copy_payloads
-- The accepted bytes.
COPY stage_payloads (task_id, payload_order, raw, digest, options, metadata) FROM STDIN (FORMAT binary);

-- name: insert_events
-- Keep the events that are not there yet; answers those that were.
WITH fresh AS (
    INSERT INTO taskq.events (day, shard, incarnation, ms, seq, idx, n, at, task_id, kind, attempt, epoch, worker,
                              actor, reason, detail, digest)
    SELECT day, shard, incarnation, ms, seq, idx, n, at, task_id, kind, attempt, epoch, worker, actor, reason,
           detail, digest
    FROM stage_events
    ON CONFLICT DO NOTHING
    RETURNING ms, seq, idx
)
SELECT s.ms, s.seq, s.idx
FROM stage_events s LEFT JOIN fresh f ON (f.ms, f.seq, f.idx) = (s.ms, s.seq, s.idx)
WHERE f.ms IS NULL;

-- name: differing_events
-- Events of the batch that were there with another content: a forgery, or two histories in one database.
SELECT s.ms, s.seq, s.idx
FROM stage_events s
WHERE s.digest <> (
    SELECT e.digest
    FROM taskq.events e
    WHERE e.day = s.day AND e.shard = s.shard AND e.incarnation = s.incarnation AND e.ms = s.ms AND e.seq = s.seq
      AND e.idx = s.idx
);

-- name: merge_tasks
-- Rows with rows, by the rules of fold.py.
INSERT INTO taskq.tasks AS t (
    id, shard, incarnation, ms, seq, idx, state, attempt, ended_at, name, queue, max_attempts, submitted_at,
    unique_key, trace_id, metadata, lives, life_epoch, payload_order, payload, priority_order, priority, due_order,
    due_at, progress_order, progress_epoch, progress, started_at, start_epoch, worker, code_version, wait_s,
    end_epoch, run_s, result, error_epoch, error_type, error_message, fingerprint, error)
SELECT
    id, shard, incarnation, ms, seq, idx, state, attempt, ended_at, name, queue, max_attempts, submitted_at,
    unique_key, trace_id, metadata, lives, life_epoch, payload_order, payload, priority_order, priority, due_order,
    due_at, progress_order, progress_epoch, progress, started_at, start_epoch, worker, code_version, wait_s,
    end_epoch, run_s, result, error_epoch, error_type, error_message, fingerprint, error
FROM stage_tasks
ON CONFLICT (id) DO UPDATE SET
    (incarnation, ms, seq, idx, state, attempt, ended_at) = (
        SELECT x.incarnation, x.ms, x.seq, x.idx, x.state, x.attempt, x.ended_at
        FROM (VALUES
            (excluded.incarnation, excluded.ms, excluded.seq, excluded.idx,
             excluded.state, excluded.attempt, excluded.ended_at),
            (t.incarnation, t.ms, t.seq, t.idx, t.state, t.attempt, t.ended_at)
        ) AS x (incarnation, ms, seq, idx, state, attempt, ended_at)
        ORDER BY x.incarnation DESC, x.ms DESC, x.seq DESC, x.idx DESC
        LIMIT 1),
    name = coalesce(t.name, excluded.name),
    queue = coalesce(t.queue, excluded.queue),
    max_attempts = coalesce(t.max_attempts, excluded.max_attempts),
    submitted_at = coalesce(t.submitted_at, excluded.submitted_at),
    unique_key = coalesce(t.unique_key, excluded.unique_key),
    trace_id = coalesce(t.trace_id, excluded.trace_id),
    metadata = coalesce(t.metadata, excluded.metadata),
    lives = t.lives + excluded.lives - 1,
    life_epoch = greatest(t.life_epoch, excluded.life_epoch),
    payload_order = greatest(t.payload_order, excluded.payload_order),
    payload = CASE WHEN excluded.payload_order > t.payload_order THEN excluded.payload ELSE t.payload END,
    priority_order = greatest(t.priority_order, excluded.priority_order),
    priority = CASE WHEN excluded.priority_order > t.priority_order THEN excluded.priority ELSE t.priority END,
    due_order = greatest(t.due_order, excluded.due_order),
    due_at = CASE WHEN excluded.due_order > t.due_order THEN excluded.due_at ELSE t.due_at END,
    progress_order = greatest(t.progress_order, excluded.progress_order),
    progress_epoch =
        CASE WHEN excluded.progress_order > t.progress_order THEN excluded.progress_epoch ELSE t.progress_epoch END,
    progress = CASE WHEN excluded.progress_order > t.progress_order THEN excluded.progress ELSE t.progress END,
    started_at = least(t.started_at, excluded.started_at),
    start_epoch = greatest(t.start_epoch, excluded.start_epoch),
    worker = CASE WHEN excluded.start_epoch > t.start_epoch THEN excluded.worker ELSE t.worker END,
    code_version =
        CASE WHEN excluded.start_epoch > t.start_epoch THEN excluded.code_version ELSE t.code_version END,
    wait_s = CASE WHEN excluded.start_epoch > t.start_epoch THEN excluded.wait_s ELSE t.wait_s END,
    end_epoch = greatest(t.end_epoch, excluded.end_epoch),
    run_s = CASE WHEN excluded.end_epoch > t.end_epoch THEN excluded.run_s ELSE t.run_s END,
    result = coalesce(t.result, excluded.result),
    error_epoch = greatest(t.error_epoch, excluded.error_epoch),
    error_type = CASE WHEN excluded.error_epoch > t.error_epoch THEN excluded.error_type ELSE t.error_type END,
    error_message =
        CASE WHEN excluded.error_epoch > t.error_epoch THEN excluded.error_message ELSE t.error_message END,
    fingerprint = CASE WHEN excluded.error_epoch > t.error_epoch THEN excluded.fingerprint ELSE t.fingerprint END,
    error = CASE WHEN excluded.error_epoch > t.error_epoch THEN excluded.error ELSE t.error END;

-- name: merge_attempts
-- Rows with rows: a start and an end each happen once.
INSERT INTO taskq.attempts AS a (
    task_id, epoch, number, started_at, ended_at, outcome, worker, wait_s, run_s, cpu_s, peak_rss, error,
    code_version, counted)
SELECT
    task_id, epoch, number, started_at, ended_at, outcome, worker, wait_s, run_s, cpu_s, peak_rss, error,
    code_version, counted
FROM stage_attempts
ON CONFLICT (task_id, epoch) DO UPDATE SET
    number = greatest(a.number, excluded.number),
    started_at = coalesce(a.started_at, excluded.started_at),
    ended_at = coalesce(a.ended_at, excluded.ended_at),
    outcome = coalesce(a.outcome, excluded.outcome),
    worker = CASE -- the start knows best
        WHEN excluded.started_at IS NULL THEN coalesce(a.worker, excluded.worker)
        ELSE coalesce(excluded.worker, a.worker)
    END,
    wait_s = coalesce(a.wait_s, excluded.wait_s),
    run_s = coalesce(a.run_s, excluded.run_s),
    cpu_s = coalesce(a.cpu_s, excluded.cpu_s),
    peak_rss = coalesce(a.peak_rss, excluded.peak_rss),
    error = coalesce(a.error, excluded.error),
    code_version = coalesce(a.code_version, excluded.code_version),
    counted = coalesce(a.counted, excluded.counted);

-- name: merge_payloads
-- The newest accepted bytes win; the options come with the submission only.
INSERT INTO taskq.payloads AS p (task_id, payload_order, raw, digest, options, metadata)
SELECT task_id, payload_order, raw, digest, options, metadata
FROM stage_payloads
ON CONFLICT (task_id) DO UPDATE SET
    payload_order = greatest(p.payload_order, excluded.payload_order),
    raw = CASE WHEN excluded.payload_order > p.payload_order THEN excluded.raw ELSE p.raw END,
    digest = CASE WHEN excluded.payload_order > p.payload_order THEN excluded.digest ELSE p.digest END,
    options = coalesce(p.options, excluded.options),
    metadata = coalesce(p.metadata, excluded.metadata);

-- name: insert_action
-- What an operator did.
INSERT INTO taskq.actions (shard, incarnation, ms, seq, idx, at, action, arguments, actor, reason, task_id)
VALUES (%(shard)s, %(incarnation)s, %(ms)s, %(seq)s, %(idx)s, to_timestamp(%(at)s / 1000.0), %(action)s,
        %(arguments)s::jsonb, %(actor)s, %(reason)s, %(task_id)s)
ON CONFLICT DO NOTHING;

-- name: insert_mark
-- A release, told by an action.
INSERT INTO taskq.marks (shard, incarnation, ms, seq, idx, at, kind, name, actor)
VALUES (%(shard)s, %(incarnation)s, %(ms)s, %(seq)s, %(idx)s, to_timestamp(%(at)s / 1000.0), 'release',
        coalesce(%(arguments)s::jsonb ->> 'name', ''), %(actor)s)
ON CONFLICT DO NOTHING;

-- name: insert_quarantine
-- What could not be kept, raw.
INSERT INTO taskq.quarantine (shard, incarnation, ms, seq, idx, n, raw, reason)
VALUES (%(shard)s, %(incarnation)s, %(ms)s, %(seq)s, %(idx)s, %(n)s, %(raw)s, %(reason)s)
ON CONFLICT DO NOTHING;

-- name: set_position
-- How far the shard is committed; never backwards.
INSERT INTO taskq.relay_position AS p (shard, incarnation, ms, seq, n, at)
VALUES (%(shard)s, %(incarnation)s, %(ms)s, %(seq)s, %(n)s, to_timestamp(%(at)s / 1000.0))
ON CONFLICT (shard) DO UPDATE SET
    incarnation = excluded.incarnation, ms = excluded.ms, seq = excluded.seq,
    n = CASE WHEN excluded.incarnation > p.incarnation THEN excluded.n ELSE greatest(p.n, excluded.n) END,
    at = greatest(p.at, excluded.at)
WHERE (excluded.incarnation, excluded.ms, excluded.seq) > (p.incarnation, p.ms, p.seq);

-- name: get_position
-- How far one shard is committed.
SELECT incarnation, ms, seq, n, (extract(epoch FROM at) * 1000)::bigint
FROM taskq.relay_position
WHERE shard = %(shard)s;
