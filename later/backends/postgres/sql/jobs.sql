-- Reading and writing jobs within a transaction; the tables are described in ../migrations/0001_jobs.sql.
--
-- A `-- name:` is a statement, a `-- fragment:` is put where {its name} stands. {schema} is the schema; {app} the
-- namespace's number; {moment} a row with the storage's time. Sets of values come as arrays or as one JSON text, so
-- that one prepared statement serves every length.
--
-- CTEs that lock or write say MATERIALIZED where the planner might otherwise run them more than once. Each statement of
-- a transaction has a snapshot of its own (READ COMMITTED, which every transaction asks for): what must see the effect
-- of a wait for a lock is therefore a statement after the one that waits, never a part of it.
--
-- Plans must not depend on what the planner believes about these tables, which grow and shrink faster than their
-- statistics: a plan for an empty table is a disaster on a full one. So a row is always found by one index from
-- constants: the time as (SELECT now FROM moment) and not by a join; ids as ANY of an array; or in a LATERAL subquery
-- that is fenced by OFFSET 0, LIMIT or a lock. Rows to change that come with values are joined by their address (ctid),
-- for which no other plan exists. A row that has changed between the statement's snapshot and its lock has another
-- address and is passed over.

-- fragment: moment
moment AS MATERIALIZED (
    SELECT coalesce(%(now)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS now
)

-- fragment: now
(SELECT now FROM moment)

-- name: moment
WITH {moment} SELECT now FROM moment;

-- fragment: columns
num, ticket, created_at, state_at, run_at, deferred_at, publish_by, expires_at, app, epoch, attempt, crashes,
    max_crashes, entries, priority, cancel_requested, has_children, id, type, queue, state, continues_on, server,
    worker, parent, reason, history, payload, result

-- fragment: job
-- What `rows.read_row` reads, in its order.
j.num, j.entries, j.has_children, j.id, j.type, j.queue, j.priority, j.state, j.epoch, j.attempt, j.crashes,
    j.max_crashes, j.created_at, j.state_at, j.run_at, j.server, j.worker, j.parent, j.continues_on, j.reason,
    j.cancel_requested, j.deferred_at, j.publish_by, j.expires_at

-- name: lock_job
SELECT {job} FROM {schema}.job AS j WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]) ORDER BY j.id FOR UPDATE;

-- name: lock_ended
SELECT {job} FROM {schema}.ended AS j WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]) ORDER BY j.id FOR UPDATE;

-- name: which_exist
-- In one snapshot: a job that moves from one table to the other between two statements is in neither for both.
SELECT j.id FROM {schema}.every_job AS j WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]);

-- name: peek
-- Without a lock: type, payload and state, all that a repeated insert asks for.
SELECT {job}, j.payload FROM {schema}.every_job AS j WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]);

-- name: lock_awaiting
-- The oldest Awaiting children of some jobs.
SELECT {job}
FROM {schema}.job AS j
WHERE j.app = {app} AND j.state = 'Awaiting' AND j.id = ANY(ARRAY(
    SELECT c.id
    FROM {schema}.job AS c
    WHERE c.app = {app} AND c.parent = ANY(%(parents)s::text[]) AND c.state = 'Awaiting' AND c.num > %(after)s
    ORDER BY c.num
    LIMIT %(limit)s
))
ORDER BY j.id
FOR UPDATE;

-- name: postpone
INSERT INTO {schema}.untold AS u (app, parent, told)
SELECT {app}, p.parent, p.told FROM unnest(%(parents)s::text[], %(told)s::bigint[]) AS p (parent, told)
ON CONFLICT (app, parent) DO UPDATE SET told = excluded.told;

-- name: settle
DELETE FROM {schema}.untold AS u WHERE u.app = {app} AND u.parent = ANY(%(parents)s::text[]);

-- name: mark_job_parents
-- Before children are inserted: from here to the commit nobody ends these jobs, and who does afterwards is told.
WITH parent AS MATERIALIZED (
    SELECT j.id
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.id = ANY(%(parents)s::text[]) AND NOT j.has_children
    ORDER BY j.id
    FOR NO KEY UPDATE
)
UPDATE {schema}.job AS j SET has_children = true WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM parent));

-- name: mark_ended_parents
WITH parent AS MATERIALIZED (
    SELECT j.id
    FROM {schema}.ended AS j
    WHERE j.app = {app} AND j.id = ANY(%(parents)s::text[]) AND NOT j.has_children
    ORDER BY j.id
    FOR NO KEY UPDATE
)
UPDATE {schema}.ended AS j SET has_children = true WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM parent));

-- name: share_job_parents
-- Shared, so that several children of one parent may be inserted at once.
SELECT {job} FROM {schema}.job AS j WHERE j.app = {app} AND j.id = ANY(%(parents)s::text[]) ORDER BY j.id FOR SHARE;

-- name: share_ended_parents
SELECT {job} FROM {schema}.ended AS j WHERE j.app = {app} AND j.id = ANY(%(parents)s::text[]) ORDER BY j.id FOR SHARE;

-- name: insert_plain
-- Jobs without parents. Times are given as distances from now. Tells the ids that were free, or NULL when all were.
WITH {moment}, created AS (
    INSERT INTO {schema}.job AS j ({columns})
    SELECT f.num, CASE WHEN f.state = 'Enqueued' THEN f.num END, {now}, {now}, {now} + f.run_in, NULL,
        {now} + f.publish_in, NULL, {app}, f.epoch, 0, 0, f.max_crashes, 1, f.priority, false, false, f.id, f.type,
        f.queue, f.state, f.continues_on, NULL, NULL, NULL, f.reason,
        ARRAY[ROW(f.state, {now}, f.reason, 0, NULL, NULL)::{schema}.entry], f.payload, NULL
    FROM (
        SELECT nextval('{schema}.turn') AS num, f.*
        FROM unnest(
            %(ids)s::text[], %(types)s::text[], %(queues)s::text[], %(states)s::text[], %(reasons)s::text[],
            %(ons)s::text[], %(epochs)s::integer[], %(priorities)s::smallint[], %(max_crashes)s::integer[],
            %(run_in)s::bigint[], %(publish_in)s::bigint[], %(payloads)s::bytea[]
        ) AS f (id, type, queue, state, reason, continues_on, epoch, priority, max_crashes, run_in, publish_in, payload)
        OFFSET 0
    ) AS f
    ON CONFLICT (id, app) DO NOTHING
    RETURNING j.id, j.queue, j.state
), counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, count(*), queue, state FROM created GROUP BY queue, state
)
SELECT CASE WHEN count(*) < cardinality(%(ids)s::text[]) THEN coalesce(array_agg(id), '{}') END FROM created;

-- name: fail_on_ended
-- After every insert: a division by zero when an id was taken by a job which has ended. A check before the insert could
-- be passed by a job that ends at this moment.
SELECT 1 / (CASE WHEN EXISTS (
    SELECT FROM {schema}.ended AS e WHERE e.app = {app} AND e.id = ANY(%(ids)s::text[])
) THEN 0 ELSE 1 END);

-- fragment: twins
ARRAY(SELECT e.id FROM {schema}.ended AS e WHERE e.app = {app} AND e.id = ANY(%(ids)s::text[]))

-- name: insert_decided
-- Jobs as they are, in the order of their creation: one statement for both tables, so that the numbers follow it.
-- `line`: gets a place in the line.
WITH fresh AS MATERIALIZED (
    SELECT nextval('{schema}.turn') AS num, f.*
    FROM json_to_recordset(%(rows)s::json) AS f (
        id text, type text, queue text, priority smallint, state text, epoch integer, attempt integer, crashes integer,
        max_crashes integer, created_at bigint, state_at bigint, run_at bigint, parent text, continues_on text,
        reason text, publish_by bigint, expires_at bigint, has_children boolean, line boolean, is_ended boolean,
        payload text
    )
), past AS (
    INSERT INTO {schema}.ended ({columns}) SELECT {made} FROM fresh AS f WHERE f.is_ended
)
INSERT INTO {schema}.job ({columns}) SELECT {made} FROM fresh AS f WHERE NOT f.is_ended;

-- fragment: made
-- The columns of a new job.
f.num, CASE WHEN f.line THEN f.num END, f.created_at, f.state_at, f.run_at, NULL, f.publish_by, f.expires_at, {app},
    f.epoch, f.attempt, f.crashes, f.max_crashes, 1, f.priority, false, f.has_children, f.id, f.type, f.queue, f.state,
    f.continues_on, NULL, NULL, f.parent, f.reason,
    ARRAY[ROW(f.state, f.state_at, f.reason, f.attempt, NULL, NULL)::{schema}.entry], decode(f.payload, 'hex'), NULL

-- name: fail_on_twins
-- `fail_on_ended` for who has found these ids free before, and may have added ended jobs. No two rows are committed
-- under one id, so the one in `job` is ours.
SELECT 1 / (CASE count(*) WHEN 0 THEN 1 ELSE 0 END)
FROM {schema}.job AS j
WHERE j.app = {app} AND j.id = ANY({twins});

-- fragment: lengthened
-- The history with the new entries, cut to its limit.
(j.history || c.news_entries)[greatest(cardinality(j.history) + cardinality(c.news_entries) - {history_limit}, 0) + 1:]

-- name: save
-- Changed jobs, wherever they are and go: one statement, so that the places in the lines follow the order of the rows.
-- `keeps_place`: the ticket stays; `line`: the job gets a new one.
WITH changed AS MATERIALIZED (
    SELECT c.*, CASE WHEN c.line THEN nextval('{schema}.turn') END AS place, coalesce(o.address, p.address) AS address,
        ARRAY(SELECT e FROM json_populate_recordset(NULL::{schema}.entry, c.news) AS e) AS news_entries
    FROM json_to_recordset(%(rows)s::json) AS c (
        id text, state text, epoch integer, attempt integer, crashes integer, state_at bigint, run_at bigint,
        server text, worker text, reason text, cancel_requested boolean, deferred_at bigint, publish_by bigint,
        expires_at bigint, entries integer, news json, keeps_place boolean, line boolean, was_ended boolean,
        is_ended boolean, result text
    )
    LEFT JOIN LATERAL (
        SELECT j.ctid AS address FROM {schema}.job AS j WHERE NOT c.was_ended AND j.app = {app} AND j.id = c.id LIMIT 1
    ) AS o ON true
    LEFT JOIN LATERAL (
        SELECT j.ctid AS address FROM {schema}.ended AS j WHERE c.was_ended AND j.app = {app} AND j.id = c.id LIMIT 1
    ) AS p ON true
), stayed AS (
    UPDATE {schema}.job AS j SET {changes} FROM changed AS c
    WHERE j.ctid = c.address AND NOT c.was_ended AND NOT c.is_ended
), stayed_ended AS (
    UPDATE {schema}.ended AS j SET {changes} FROM changed AS c
    WHERE j.ctid = c.address AND c.was_ended AND c.is_ended
), closed AS (
    DELETE FROM {schema}.job AS j USING changed AS c
    WHERE j.ctid = c.address AND NOT c.was_ended AND c.is_ended
    RETURNING {moved}
), opened AS (
    DELETE FROM {schema}.ended AS j USING changed AS c
    WHERE j.ctid = c.address AND c.was_ended AND NOT c.is_ended
    RETURNING {moved}
), past AS (
    INSERT INTO {schema}.ended ({columns}) SELECT * FROM closed
)
INSERT INTO {schema}.job ({columns}) SELECT * FROM opened;

-- fragment: changes
-- All that a change can touch, where the row stays in its table.
ticket = CASE WHEN c.keeps_place THEN j.ticket ELSE c.place END, state_at = c.state_at, run_at = c.run_at,
    deferred_at = c.deferred_at, publish_by = c.publish_by, expires_at = c.expires_at, epoch = c.epoch,
    attempt = c.attempt, crashes = c.crashes, entries = c.entries, cancel_requested = c.cancel_requested,
    state = c.state, server = c.server, worker = c.worker, reason = c.reason, history = {lengthened},
    result = decode(c.result, 'hex')

-- fragment: moved
-- The columns, as they become, where it goes to the other.
j.num, c.place, j.created_at, c.state_at, c.run_at, c.deferred_at, c.publish_by, c.expires_at, {app}, c.epoch,
    c.attempt, c.crashes, j.max_crashes, c.entries, j.priority, c.cancel_requested, j.has_children, j.id, j.type,
    j.queue, c.state, j.continues_on, c.server, c.worker, j.parent, c.reason, {lengthened}, j.payload,
    decode(c.result, 'hex')

-- name: add_errors
INSERT INTO {schema}.error (job, entry, error)
SELECT e.job, e.entry, e.error
FROM json_to_recordset(%(rows)s::json) AS e (job bigint, entry integer, error text);

-- name: trim_errors
DELETE FROM {schema}.error AS e
USING json_to_recordset(%(rows)s::json) AS t (job bigint, entry integer)
WHERE e.job = t.job AND e.entry <= t.entry;

-- name: count
INSERT INTO {schema}.tally (app, jobs, queue, state)
SELECT {app}, t.jobs, t.queue, t.state
FROM json_to_recordset(%(rows)s::json) AS t (jobs bigint, queue text, state text);

-- name: notify
SELECT pg_notify(%(channel)s, queue) FROM unnest(%(queues)s::text[]) AS queue;
