-- Partitions: events by day, what hangs on a task by the week of the task's id. DEFAULT takes what has no home.
-- The functions run with the owner's rights, so that the relay's role needs none of them.

CREATE TABLE taskq.events_default PARTITION OF taskq.events DEFAULT;
CREATE TABLE taskq.tasks_default PARTITION OF taskq.tasks DEFAULT;
CREATE TABLE taskq.attempts_default PARTITION OF taskq.attempts DEFAULT;
CREATE TABLE taskq.payloads_default PARTITION OF taskq.payloads DEFAULT;

-- Adds one partition; rows of its range that fell into DEFAULT move into it in the same transaction.
-- Answers how many moved, or NULL when the partition was there.
CREATE FUNCTION taskq.add_partition(parent text, starts date, ends date) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    child text := parent || '_' || to_char(starts, 'YYYYMMDD');
    key text := CASE parent WHEN 'events' THEN 'day' WHEN 'tasks' THEN 'id' ELSE 'task_id' END;
    lowest text := starts::text;
    beyond text := ends::text;
    moved bigint := 0;
    homeless boolean;
BEGIN
    IF parent NOT IN ('events', 'tasks', 'attempts', 'payloads') THEN
        RAISE EXCEPTION '% has no partitions', parent;
    END IF;
    IF to_regclass('taskq.' || quote_ident(child)) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE ONLY taskq.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
    IF to_regclass('taskq.' || quote_ident(child)) IS NOT NULL THEN
        RETURN NULL; -- another relay was quicker
    END IF;
    IF parent <> 'events' THEN
        lowest := taskq.id_at(starts::timestamp AT TIME ZONE 'UTC');
        beyond := taskq.id_at(ends::timestamp AT TIME ZONE 'UTC');
    END IF;
    EXECUTE format('LOCK TABLE taskq.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('CREATE TABLE taskq.%I (LIKE taskq.%I INCLUDING ALL)', child, parent);
    EXECUTE format('SELECT EXISTS (SELECT FROM taskq.%I WHERE %I >= %L AND %I < %L)',
                   parent || '_default', key, lowest, key, beyond) INTO homeless;
    IF homeless THEN
        EXECUTE format('WITH moved AS (DELETE FROM taskq.%I WHERE %I >= %L AND %I < %L RETURNING *)'
                       ' INSERT INTO taskq.%I SELECT * FROM moved',
                       parent || '_default', key, lowest, key, beyond, child);
        GET DIAGNOSTICS moved = ROW_COUNT;
    END IF;
    EXECUTE format('ALTER TABLE taskq.%I ATTACH PARTITION taskq.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, child, lowest, beyond);
    RETURN moved;
END $$;

-- The days on which rows without a home lie, at most so many.
CREATE FUNCTION taskq.homeless_days(parent text, at_most integer) RETURNS SETOF date
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT DISTINCT %s FROM taskq.%I LIMIT %s',
        CASE parent
            WHEN 'events' THEN 'day'
            WHEN 'tasks' THEN '(taskq.time_of(id) AT TIME ZONE ''UTC'')::date'
            ELSE '(taskq.time_of(task_id) AT TIME ZONE ''UTC'')::date'
        END,
        parent || '_default', at_most);
END $$;

-- Makes what is missing from a day on, and homes for what fell into DEFAULT. Answers what was made.
CREATE FUNCTION taskq.make_partitions(today date, days_ahead integer)
    RETURNS TABLE (parent text, starts date, moved bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    FOR parent, starts IN
        SELECT DISTINCT names.name, wanted.day
        FROM unnest(ARRAY['events', 'tasks', 'attempts', 'payloads']) AS names (name),
             LATERAL (
                 SELECT today + step FROM generate_series(-1, days_ahead) AS step
                 UNION SELECT taskq.homeless_days(names.name, 31)
             ) AS asked (day),
             LATERAL (
                 SELECT CASE names.name
                     WHEN 'events' THEN asked.day
                     ELSE asked.day - (extract(isodow FROM asked.day)::integer - 1)
                 END
             ) AS wanted (day)
        ORDER BY 1, 2
    LOOP
        moved := taskq.add_partition(
            parent, starts, starts + CASE parent WHEN 'events' THEN 1 ELSE 7 END);
        IF moved IS NOT NULL THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION taskq.add_partition(text, date, date) FROM PUBLIC;
REVOKE ALL ON FUNCTION taskq.homeless_days(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION taskq.make_partitions(date, integer) FROM PUBLIC;
