-- Inserting within a transaction of the user's, of whatever isolation and settings; see jobs.sql for the conventions.
--
-- No statement here locks a row that another transaction has committed, and none fails for what it finds: an error would
-- end the user's transaction.

-- name: whereabouts
-- The time, the isolation, and which server and database this is. Names no table, so that it fails nowhere.
WITH {moment}
SELECT now, current_setting('transaction_isolation'),
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text || '/'
        || (SELECT d.oid::text FROM pg_database AS d WHERE d.datname = current_database())
FROM moment;

-- name: which_parents
SELECT j.id FROM {schema}.every_job AS j WHERE j.app = {app} AND j.id = ANY(%(parents)s::text[]);

-- name: insert_joining
-- Jobs that have not ended, in the order of their creation. Tells the ids that were free.
WITH fresh AS MATERIALIZED (
    SELECT nextval('{schema}.turn') AS num, f.*
    FROM json_to_recordset(%(rows)s::json) AS f (
        id text, type text, queue text, priority smallint, state text, epoch integer, attempt integer, crashes integer,
        max_crashes integer, created_at bigint, state_at bigint, run_at bigint, parent text, continues_on text,
        reason text, publish_by bigint, expires_at bigint, has_children boolean, line boolean, payload text
    )
), created AS (
    INSERT INTO {schema}.job AS j ({columns}) SELECT {made} FROM fresh AS f
    ON CONFLICT (id, app) DO NOTHING
    RETURNING j.id, j.queue, j.state, j.parent
), counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, count(*), queue, state FROM created GROUP BY queue, state
), waiting AS (
    INSERT INTO {schema}.unsettled (app, child, parent) SELECT {app}, id, parent FROM created WHERE parent IS NOT NULL
)
SELECT id FROM created;

-- name: ended_twins
-- Of these ids, those of jobs that have ended.
SELECT e.id FROM {schema}.ended AS e WHERE e.app = {app} AND e.id = ANY(%(ids)s::text[]);

-- name: seal
-- After `insert_joining`: drops the jobs whose ids were taken by jobs which have ended, where `ended` names more ids than
-- the transaction may see; and the notification, which the server sends at the commit.
WITH dropped AS (
    DELETE FROM {schema}.job AS j
    WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]) AND (j.id = ANY({twins}) OR j.id = ANY(%(ended)s::text[]))
    RETURNING j.id, j.queue, j.state
), counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, -count(*), queue, state FROM dropped GROUP BY queue, state
), unlisted AS (
    DELETE FROM {schema}.unsettled AS u WHERE u.app = {app} AND u.child = ANY(ARRAY(SELECT id FROM dropped))
), told AS MATERIALIZED (
    SELECT pg_notify(%(channel)s, queue) FROM unnest(%(queues)s::text[]) AS queue
)
SELECT id FROM dropped UNION ALL SELECT NULL FROM told;

-- name: stored
-- What is stored under ids that were taken.
SELECT j.id, j.type, j.state, j.payload FROM {schema}.every_job AS j WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]);

-- name: has_unsettled
SELECT EXISTS (SELECT FROM {schema}.unsettled AS u WHERE u.app = {app});

-- name: unsettled
SELECT u.child, u.parent
FROM {schema}.unsettled AS u
WHERE u.app = {app}
ORDER BY u.child
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- name: settled
DELETE FROM {schema}.unsettled AS u WHERE u.app = {app} AND u.child = ANY(%(ids)s::text[]);
