-- name: lock_migrations
-- One migration at a time; others wait.
SELECT pg_advisory_lock(1952541547, -1);

-- name: unlock_migrations
-- The next may begin.
SELECT pg_advisory_unlock(1952541547, -1);

-- name: create_schema
-- The schema and the list of what was applied to it.
CREATE SCHEMA IF NOT EXISTS taskq;
CREATE TABLE IF NOT EXISTS taskq.schema_version (
    version integer PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: has_schema
-- Whether there is a list of what was applied.
SELECT to_regclass('taskq.schema_version') IS NOT NULL;

-- name: applied_migrations
-- What was applied.
SELECT version, name, digest FROM taskq.schema_version ORDER BY version;

-- name: record_migration
-- One more is applied.
INSERT INTO taskq.schema_version (version, name, digest) VALUES (%(version)s, %(name)s, %(digest)s);

-- name: missing_roles
-- Roles that do not exist, and whether this one may create them.
SELECT wanted.name, (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) AS may_create
FROM unnest(ARRAY['taskq_relay', 'taskq_reader']) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name);

-- name: create_role_taskq_relay
-- For relays; a group without login. Another database of the server may create it at this moment.
DO $$ BEGIN CREATE ROLE taskq_relay NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;

-- name: create_role_taskq_reader
-- For readers; a group without login.
DO $$ BEGIN CREATE ROLE taskq_reader NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;

-- name: grant_relay
-- Events are append-only for a relay: no UPDATE, no DELETE, no TRUNCATE.
GRANT USAGE ON SCHEMA taskq TO taskq_relay;
REVOKE ALL ON ALL TABLES IN SCHEMA taskq FROM taskq_relay;
GRANT SELECT, INSERT ON taskq.events, taskq.actions, taskq.marks, taskq.quarantine TO taskq_relay;
GRANT SELECT, INSERT, UPDATE ON taskq.tasks, taskq.attempts, taskq.payloads, taskq.relay_position TO taskq_relay;
GRANT SELECT ON taskq.schema_version TO taskq_relay;
GRANT EXECUTE ON FUNCTION taskq.make_partitions(date, integer) TO taskq_relay;

-- name: grant_reader
-- Readers see everything but raw payloads and what is in quarantine.
GRANT USAGE ON SCHEMA taskq TO taskq_reader;
REVOKE ALL ON ALL TABLES IN SCHEMA taskq FROM taskq_reader;
GRANT SELECT ON taskq.events, taskq.tasks, taskq.attempts, taskq.actions, taskq.marks, taskq.relay_position,
    taskq.schema_version, taskq.task, taskq.attempt, taskq.event TO taskq_reader;

-- name: limit_reader
-- A reader's query must not run away. Only roles that may alter the role do this.
ALTER ROLE taskq_reader SET statement_timeout = '10s';

-- name: join_taskq_relay
-- The role that migrates may act as the relay.
GRANT taskq_relay TO CURRENT_USER;

-- name: join_taskq_reader
-- The role that migrates may act as a reader.
GRANT taskq_reader TO CURRENT_USER;
