-- What servers do at intervals: leases, due jobs, the outbox, clearing away. See jobs.sql for the conventions.
--
-- A statement that finds nothing to do writes nothing. Those that take jobs away skip locked rows: whoever holds one is
-- moving it, and the next round comes in seconds.

-- name: find_app
SELECT num FROM {schema}.app WHERE name = %(name)s;

-- name: add_app
INSERT INTO {schema}.app (name) VALUES (%(name)s) ON CONFLICT (name) DO NOTHING;

-- name: register
-- A server that is registered keeps its lease: the call was repeated. One that had ended starts anew.
WITH {moment}
INSERT INTO {schema}.server AS s (app, id, node, host, pid, pid_started, queues, slots, started_at, lease_until, ended)
SELECT {app}, %(id)s, %(node)s, %(host)s, %(pid)s::bigint, %(pid_started)s, %(queues)s::text[], %(slots)s::integer,
    {now}, {now} + %(lease)s, false
ON CONFLICT (app, id) DO UPDATE
SET node = excluded.node, host = excluded.host, pid = excluded.pid, pid_started = excluded.pid_started,
    queues = excluded.queues, slots = excluded.slots, started_at = excluded.started_at,
    lease_until = excluded.lease_until, note = '', ended = false
WHERE s.ended;

-- name: renew
WITH {moment}
UPDATE {schema}.server AS s
SET lease_until = {now} + %(lease)s, note = %(note)s
WHERE s.app = {app} AND s.id = %(server)s AND s.lease_until > {now}
RETURNING s.id;

-- name: cancels
SELECT j.id, j.epoch
FROM {schema}.job AS j
WHERE j.app = {app} AND j.server = %(server)s AND j.state = 'Processing' AND j.cancel_requested
ORDER BY j.state_at, j.id;

-- name: end_server
-- Kept, unseen, while it holds claims (`forget_servers` comes next): that is how `rescue` finds them. FOR UPDATE, as in
-- `lock_lapsed`.
WITH {moment}, target AS MATERIALIZED (
    SELECT s.id FROM {schema}.server AS s WHERE s.app = {app} AND s.id = %(server)s FOR UPDATE
)
UPDATE {schema}.server AS s
SET lease_until = least(s.lease_until, {now}), ended = true
WHERE s.app = {app} AND s.id = (SELECT id FROM target);

-- name: servers
SELECT s.id, s.node, s.host, s.pid, s.pid_started, s.queues, s.slots, s.started_at, s.lease_until, s.note,
    (
        SELECT count(*)
        FROM {schema}.job AS j
        WHERE j.app = s.app AND j.server = s.id AND j.state = 'Processing'
    )
FROM {schema}.server AS s
WHERE s.app = {app} AND NOT s.ended
ORDER BY s.started_at, s.id;

-- name: held
SELECT j.id, j.epoch, j.worker
FROM {schema}.job AS j
WHERE j.app = {app} AND j.server = %(server)s AND j.state = 'Processing'
ORDER BY j.state_at, j.id;

-- name: has_lapsed
WITH {moment}
SELECT EXISTS (
    SELECT FROM {schema}.server AS s
    WHERE s.app = {app} AND (s.lease_until <= {now} OR s.id = ANY(%(dead)s::text[]))
), {now};

-- name: lock_lapsed
-- Those that are dead now. FOR UPDATE waits for claims that are under way in their names (`leased`) and keeps others
-- from beginning; the claims are then looked for by the next statement, which sees them.
WITH {moment}
SELECT s.id
FROM {schema}.server AS s
WHERE s.app = {app} AND (s.lease_until <= {now} OR s.id = ANY(%(dead)s::text[]))
ORDER BY s.id
FOR UPDATE;

-- name: end_leases
WITH {moment}
UPDATE {schema}.server AS s
SET lease_until = {now}
WHERE s.app = {app} AND s.id = ANY(%(dead)s::text[]) AND s.lease_until > {now};

-- name: orphaned
-- Claims of servers whose lease has run out, oldest first.
WITH {moment}
SELECT {job}
FROM {schema}.job AS j
WHERE j.app = {app} AND j.state = 'Processing' AND j.server = ANY(ARRAY(
    SELECT s.id FROM {schema}.server AS s WHERE s.app = {app} AND s.lease_until <= {now}
))
ORDER BY j.state_at, j.id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- name: lapsed
WITH {moment}
SELECT s.id
FROM {schema}.server AS s
WHERE s.app = {app} AND s.lease_until <= {now} AND (NOT s.ended OR {holding})
ORDER BY s.id;

-- fragment: holding
EXISTS (SELECT FROM {schema}.job AS j WHERE j.app = {app} AND j.server = s.id AND j.state = 'Processing')

-- name: forget_servers
WITH {moment}
DELETE FROM {schema}.server AS s
WHERE s.app = {app} AND s.lease_until <= {now} AND s.id = ANY(%(lapsed)s::text[]) AND NOT {holding};

-- name: next_due
WITH {moment}
SELECT (
    SELECT j.run_at FROM {schema}.job AS j WHERE j.app = {app} AND j.state = 'Scheduled' ORDER BY j.run_at LIMIT 1
) - {now};

-- name: has_untold
SELECT EXISTS (SELECT FROM {schema}.untold AS u WHERE u.app = {app});

-- name: untold
SELECT u.parent, u.told
FROM {schema}.untold AS u
WHERE u.app = {app}
ORDER BY u.num
LIMIT 100
FOR UPDATE SKIP LOCKED;

-- name: due
WITH {moment}
SELECT {job}
FROM {schema}.job AS j
WHERE j.app = {app} AND j.state = 'Scheduled' AND j.run_at <= {now}
ORDER BY j.run_at, j.id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- name: unpublished
WITH {moment}, late AS MATERIALIZED (
    SELECT j.id, j.epoch, j.queue, j.priority, j.publish_by
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.publish_by <= {now}
    ORDER BY j.publish_by, j.id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), postponed AS (
    UPDATE {schema}.job AS j
    SET publish_by = {now} + %(again_in)s
    WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM late))
)
SELECT l.id, l.epoch, l.queue, l.priority FROM late AS l ORDER BY l.publish_by, l.id;

-- name: confirm
-- They come in the order of ids, so that two that confirm the same jobs do not wait for each other.
WITH confirmed AS MATERIALIZED (
    SELECT r.id
    FROM unnest(%(ids)s::text[], %(epochs)s::integer[]) AS r (id, epoch)
    CROSS JOIN LATERAL (
        SELECT
        FROM {schema}.job AS j
        WHERE j.app = {app} AND j.id = r.id AND j.epoch = r.epoch AND coalesce(j.publish_by, 0) > 0
        FOR UPDATE
    ) AS locked
)
UPDATE {schema}.job AS j SET publish_by = NULL WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM confirmed));

-- name: unpublish
-- Returns the last job that it looked at, when there may be more.
WITH {moment}, page AS MATERIALIZED (
    SELECT j.id, j.state_at, j.queue = ANY(%(queues)s::text[]) AND j.publish_by IS NULL AS lost
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.state = 'Enqueued' AND j.state_at <= {now} - %(waiting)s AND j.state_at >= %(after_at)s
        AND (j.state_at, j.id) > (%(after_at)s, %(after_id)s)
    ORDER BY j.state_at, j.id
    LIMIT %(limit)s
), lost AS MATERIALIZED (
    SELECT j.id
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM page AS p WHERE p.lost))
        AND j.state = 'Enqueued' AND j.publish_by IS NULL
    FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE {schema}.job AS j
    SET publish_by = j.state_at
    WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM lost))
)
SELECT p.state_at, p.id
FROM page AS p
WHERE (SELECT count(*) FROM page) = %(limit)s
ORDER BY p.state_at DESC, p.id DESC
LIMIT 1;

-- name: expired
WITH {moment}
SELECT {job}
FROM {schema}.ended AS j
WHERE j.app = {app} AND j.expires_at <= {now} AND (j.state = 'Failed' OR {childless}) AND {settled_with}
ORDER BY j.expires_at, j.id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- fragment: childless
-- No child of the job still needs it: one that has not ended is in `job`.
(
    NOT j.has_children
    OR (SELECT true FROM {schema}.job AS child WHERE child.app = {app} AND child.parent = j.id LIMIT 1) IS NULL
)

-- fragment: settled_with
-- No continuation of the job, committed within a transaction of the user's, is still to be looked at: it waits for the
-- state that the job is in now.
j.id NOT IN (SELECT u.parent FROM {schema}.unsettled AS u WHERE u.app = {app})

-- name: remove
-- Asks once more about children: one may have been inserted before the row was locked.
WITH gone AS (
    DELETE FROM {schema}.ended AS j
    WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]) AND {childless} AND {settled_with}
    RETURNING j.num, j.queue, j.state
), counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, -count(*), queue, state FROM gone GROUP BY queue, state
), forgotten AS (
    DELETE FROM {schema}.error AS e USING gone AS g WHERE e.job = g.num
)
SELECT count(*) FROM gone;

-- name: sum_up
-- Many rows become few, once there are more than the threshold. Two that do it at once share the rows among them.
WITH many AS MATERIALIZED (
    SELECT count(*) > %(threshold)s AS too_many
    FROM (SELECT FROM {schema}.tally WHERE app = {app} LIMIT %(threshold)s + 1) AS few
), old AS MATERIALIZED (
    SELECT t.ctid FROM {schema}.tally AS t WHERE t.app = {app} AND (SELECT too_many FROM many) FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM {schema}.tally AS t USING old AS o WHERE t.ctid = o.ctid RETURNING t.jobs, t.queue, t.state
)
INSERT INTO {schema}.tally (app, jobs, queue, state)
SELECT {app}, sum(jobs), queue, state FROM gone GROUP BY queue, state HAVING sum(jobs) <> 0;
