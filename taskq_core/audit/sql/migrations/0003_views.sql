-- Views with the names of the programming interface, for tools that speak SQL.

-- What belongs to an attempt is shown while it belongs to the newest life.
CREATE VIEW taskq.task AS
SELECT id, name, queue, priority, state, payload, metadata, attempt, max_attempts,
       submitted_at, due_at,
       CASE
           WHEN lives = 1 THEN started_at
           ELSE (SELECT min(a.started_at) FROM taskq.attempts a WHERE a.task_id = id AND a.epoch > life_epoch)
       END AS started_at,
       ended_at,
       CASE WHEN start_epoch > life_epoch THEN wait_s END AS wait_s,
       CASE WHEN end_epoch > life_epoch AND end_epoch >= start_epoch THEN run_s END AS run_s,
       CASE WHEN start_epoch > life_epoch THEN worker END AS worker,
       CASE WHEN start_epoch > life_epoch THEN code_version END AS code_version,
       unique_key,
       CASE WHEN progress_epoch > life_epoch THEN progress END AS progress,
       result,
       CASE WHEN error_epoch > life_epoch THEN error END AS error,
       CASE WHEN error_epoch > life_epoch THEN fingerprint END AS fingerprint,
       trace_id, lives, start_epoch AS epoch, shard, incarnation, ms, seq, idx
FROM taskq.tasks;

CREATE VIEW taskq.attempt AS
SELECT task_id, number, epoch, outcome, started_at, ended_at, wait_s, run_s, cpu_s, peak_rss, worker, error,
       code_version, counted
FROM taskq.attempts;

CREATE VIEW taskq.event AS
SELECT concat_ws('-', shard, incarnation, ms, seq, idx) AS id,
       task_id, kind, at, attempt, epoch, worker, actor, reason, detail, shard, n, day
FROM taskq.events;
