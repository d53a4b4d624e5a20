-- The history: everything that ever happened (events), and what it amounts to (tasks, attempts).
-- Written for PostgreSQL 15 and newer. Later migrations add rollups and logs.

-- The smallest UUIDv7 of a moment: ranges of time are ranges of ids.
CREATE FUNCTION taskq.id_at(moment timestamptz) RETURNS uuid
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- The moment that a UUIDv7 carries.
CREATE FUNCTION taskq.time_of(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);

-- Append-only. An event's identity is (shard, incarnation, ms, seq, idx): where it stood in the stream.
-- `n` counts the events of a shard without a hole. `digest` tells a replay from a forgery.
CREATE TABLE taskq.events (
    day date NOT NULL,
    shard smallint NOT NULL,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    n bigint NOT NULL,
    at timestamptz NOT NULL,
    task_id uuid,
    kind text NOT NULL,
    attempt integer NOT NULL,
    epoch bigint NOT NULL,
    worker text,
    actor text,
    reason text,
    detail jsonb NOT NULL,
    digest bigint NOT NULL,
    PRIMARY KEY (day, shard, incarnation, ms, seq, idx)
) PARTITION BY RANGE (day);
CREATE INDEX events_by_task ON taskq.events (task_id, n);
CREATE INDEX events_by_n ON taskq.events (shard, n, incarnation);

-- One row per task. Each group of columns has the key by which its newest value is known, so that events may
-- arrive in any order: (incarnation, ms, seq, idx) for the state, an epoch for what an attempt tells, and an
-- order (incarnation << 48 | n) for the rest.
CREATE TABLE taskq.tasks (
    id uuid PRIMARY KEY,
    -- the newest event that set the state
    shard smallint NOT NULL,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    ended_at timestamptz,
    -- said once, when it was submitted
    name text,
    queue text,
    max_attempts integer,
    submitted_at timestamptz,
    unique_key text,
    trace_id text,
    metadata jsonb,
    -- said again by later events
    lives integer NOT NULL DEFAULT 1,
    life_epoch bigint NOT NULL DEFAULT 0, -- attempts of the newest life have a larger epoch
    payload_order bigint NOT NULL,
    payload jsonb,
    priority_order bigint NOT NULL,
    priority text,
    due_order bigint NOT NULL,
    due_at timestamptz,
    progress_order bigint NOT NULL,
    progress_epoch bigint NOT NULL,
    progress jsonb,
    -- of attempts: the newest that started, that ended, and that failed
    started_at timestamptz,
    start_epoch bigint NOT NULL,
    worker text,
    code_version text,
    wait_s double precision,
    end_epoch bigint NOT NULL,
    run_s double precision,
    result jsonb,
    error_epoch bigint NOT NULL,
    error_type text,
    error_message text,
    fingerprint text,
    error jsonb
) PARTITION BY RANGE (id);
CREATE INDEX tasks_by_state ON taskq.tasks (state, id DESC);
CREATE INDEX tasks_by_queue ON taskq.tasks (queue, id DESC);
CREATE INDEX tasks_by_name ON taskq.tasks (name, id DESC);
CREATE INDEX tasks_by_fingerprint ON taskq.tasks (fingerprint, id DESC) WHERE fingerprint IS NOT NULL;

-- One row per run. `counted` is false where the run cost the task no attempt.
CREATE TABLE taskq.attempts (
    task_id uuid NOT NULL,
    epoch bigint NOT NULL,
    number integer NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    outcome text,
    worker text,
    wait_s double precision,
    run_s double precision,
    cpu_s double precision,
    peak_rss bigint,
    error jsonb,
    code_version text,
    counted boolean,
    PRIMARY KEY (task_id, epoch)
) PARTITION BY RANGE (task_id);

-- The accepted bytes, as they came: JSONB would reorder keys and turn 1e5 into 100000.
CREATE TABLE taskq.payloads (
    task_id uuid PRIMARY KEY,
    payload_order bigint NOT NULL, -- order of the event that brought it
    raw bytea NOT NULL,
    digest text NOT NULL,
    options text, -- packed; NULL when the submission itself could not be kept
    metadata text -- raw JSON
) PARTITION BY RANGE (task_id);

-- What operators did: who, what, on which filter, how many, why.
CREATE TABLE taskq.actions (
    shard smallint NOT NULL,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    at timestamptz NOT NULL,
    action text NOT NULL,
    arguments jsonb,
    actor text,
    reason text,
    task_id uuid,
    PRIMARY KEY (shard, incarnation, ms, seq, idx)
);
CREATE INDEX actions_by_time ON taskq.actions (at DESC);

-- Moments worth a line in a chart: releases.
CREATE TABLE taskq.marks (
    shard smallint NOT NULL,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    actor text,
    PRIMARY KEY (shard, incarnation, ms, seq, idx)
);
CREATE INDEX marks_by_time ON taskq.marks (at DESC);

-- How far each shard's events are committed; written in the same transaction as they.
CREATE TABLE taskq.relay_position (
    shard smallint PRIMARY KEY,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    n bigint NOT NULL,
    at timestamptz NOT NULL
);

-- What could not be kept, raw. `idx` is −1 for a whole stream entry.
CREATE TABLE taskq.quarantine (
    shard smallint NOT NULL,
    incarnation integer NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    n bigint,
    raw bytea NOT NULL,
    reason text NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, incarnation, ms, seq, idx)
);
