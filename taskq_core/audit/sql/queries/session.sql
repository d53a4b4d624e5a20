-- name: relay_settings
-- The limits of a relay's session. An idle transaction would hold back vacuum.
SELECT set_config('statement_timeout', %(statement_ms)s, false),
       set_config('lock_timeout', %(lock_ms)s, false),
       set_config('idle_in_transaction_session_timeout', %(statement_ms)s, false),
       set_config('timezone', 'UTC', false);

-- name: may_be_relay
-- Whether the relay's role exists and may be taken.
SELECT coalesce((SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = 'taskq_relay'), false);

-- name: become_relay
-- From now on only what a relay may: events cannot be changed or deleted.
SET ROLE taskq_relay;

-- name: lock_shard
-- One relay per shard: true when this session is it.
SELECT pg_try_advisory_lock(1952541547, %(shard)s);

-- name: make_partitions
-- What is missing from a day on, and homes for what fell into DEFAULT.
SELECT parent, starts, moved FROM taskq.make_partitions(%(today)s, %(days_ahead)s);
