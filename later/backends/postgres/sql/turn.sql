-- A worker's turn: ends and claims, set by set. See jobs.sql for the conventions.
--
-- These statements decide nothing that `later.core.lifecycle` decides: what a job becomes comes from there, as values.
-- They only find the jobs for which those values hold.
--
-- concat('Processing') is a constant that the planner does not see: it would make it consider the index of all jobs of
-- that state, where a job is looked up by its id.

-- name: finish
-- Ends of jobs that are still as their worker knew them. What differs in any way (another claim, a cancel that was
-- asked for, children that may wait, a history to be cut, a row that somebody has locked) is left and told, to be
-- decided one by one. Never waits for a lock, so it takes part in no deadlock.
WITH {moment}, report AS MATERIALIZED (
    SELECT *
    FROM unnest(
        %(ids)s::text[], %(epochs)s::integer[], %(servers)s::text[], %(states)s::text[], %(reasons)s::text[],
        %(keeps)s::bigint[], %(yields)s::boolean[], %(results)s::bytea[], %(errors)s::text[]
    ) AS r (id, epoch, server, state, reason, keep, yields, result, error)
), held AS MATERIALIZED (
    SELECT locked.ctid AS address, r.state, r.reason, r.keep, r.result, r.error
    FROM report AS r
    CROSS JOIN LATERAL (
        SELECT j.ctid
        FROM {schema}.job AS j
        WHERE j.app = {app} AND j.id = r.id AND j.state = concat('Processing') AND j.epoch = r.epoch
            AND j.server = r.server AND NOT j.has_children AND NOT (r.yields AND j.cancel_requested)
            AND j.entries < {history_limit}
        FOR UPDATE SKIP LOCKED
    ) AS locked
), gone AS (
    DELETE FROM {schema}.job AS j
    USING held AS h
    WHERE j.ctid = h.address
    RETURNING j.*, h.state AS new_state, h.reason AS new_reason, h.keep, h.result AS new_result, h.error
), kept AS (
    INSERT INTO {schema}.ended ({columns})
    SELECT g.num, NULL, g.created_at, {now}, NULL, NULL, NULL, {now} + g.keep, {app}, g.epoch, g.attempt, g.crashes,
        g.max_crashes, g.entries + 1, g.priority, false, false, g.id, g.type, g.queue, g.new_state, g.continues_on,
        g.server, g.worker, g.parent, g.new_reason,
        g.history || ROW(g.new_state, {now}, g.new_reason, g.attempt, g.server, g.worker)::{schema}.entry, g.payload,
        g.new_result
    FROM gone AS g
), counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, sum(m.jobs), g.queue, m.state
    FROM gone AS g
    CROSS JOIN LATERAL (VALUES (-1, g.state), (1, g.new_state)) AS m (jobs, state)
    GROUP BY g.queue, m.state
), noted AS (
    INSERT INTO {schema}.error (job, entry, error) SELECT num, entries + 1, error FROM gone WHERE error IS NOT NULL
)
SELECT array_agg(r.id), set_config('later.left', count(*)::text, true)
FROM report AS r
WHERE r.id NOT IN (SELECT id FROM gone);

-- name: nothing_left
-- What `finish` left was done otherwise.
SELECT set_config('later.left', '0', true);

-- fragment: leased
-- The claimant's lease, held in place: who wants to end it waits for the commit and sees the claims. Only looked at
-- when there is something to claim, so that a turn without work writes nothing.
leased AS MATERIALIZED (
    SELECT 1
    FROM {schema}.server AS s
    WHERE s.app = {app} AND s.id = %(server)s AND s.lease_until > {now} AND EXISTS (SELECT FROM found)
    FOR KEY SHARE
)

-- fragment: claim_it
UPDATE {schema}.job AS j
    SET state = %(to)s, state_at = {now}, attempt = j.attempt + %(counts)s, server = %(server)s, worker = %(worker)s,
        reason = %(reason)s, publish_by = NULL, ticket = NULL, entries = j.entries + 1,
        history = CASE WHEN cardinality(j.history) < {history_limit} THEN j.history ELSE j.history[2:] END
            || ROW(%(to)s, {now}, %(reason)s, j.attempt + %(counts)s, %(server)s, %(worker)s)::{schema}.entry

-- fragment: count_claimed
counted AS (
    INSERT INTO {schema}.tally (app, jobs, queue, state)
    SELECT {app}, sum(m.jobs), c.queue, m.state
    FROM claimed AS c
    CROSS JOIN (VALUES (-1, 'Enqueued'), (1, %(to)s)) AS m (jobs, state)
    GROUP BY c.queue, m.state
)

-- fragment: claim
-- The fields of `Claim`.
c.id, c.epoch, c.type, c.queue, c.priority, c.payload, c.attempt, c.crashes, c.server, {now} - c.deferred_at, c.parent,
    p.state, p.result

-- fragment: parent_of_claim
LEFT JOIN LATERAL (
    SELECT e.state, e.result FROM {schema}.every_job AS e WHERE e.app = {app} AND e.id = c.parent LIMIT 1
) AS p ON c.parent IS NOT NULL

-- fragment: unless_left
-- All that `finish` was given in this transaction is done. If not, the turn goes on in another one, and claims there.
coalesce(nullif(current_setting('later.left', true), ''), '0') = '0'

-- name: claim_next
-- {lines} are the CTEs line_1, line_2, ... that `next_of_queue` makes, one per queue, and {all_lines} is their union.
-- The batch ends as `later.core.steps.next_batch` says: before a job that has crashed, or with it when it is the first.
WITH {moment}, {lines}, found AS MATERIALIZED (
    SELECT l.address, l.crashes, row_number() OVER (ORDER BY l.line, l.priority DESC, l.ticket) AS place
    FROM ({all_lines}) AS l
), ranked AS (
    SELECT f.address, f.place, min(f.place) FILTER (WHERE f.crashes > 0) OVER () AS first_suspect FROM found AS f
), {leased}, chosen AS MATERIALIZED (
    SELECT c.address, c.place
    FROM ranked AS c, leased
    WHERE c.first_suspect IS NULL OR c.place < c.first_suspect OR c.place = 1
), claimed AS (
    {claim_it}
    FROM chosen AS c
    WHERE j.ctid = c.address
    RETURNING j.*, c.place
), {count_claimed}
SELECT {claim} FROM claimed AS c {parent_of_claim} ORDER BY c.place;

-- fragment: all_of_line
SELECT * FROM line_{line}

-- fragment: count_of_line
(SELECT count(*) FROM line_{line})

-- fragment: next_of_queue
-- Locks as it goes, and no more than are wanted after the lines before.
line_{line} AS MATERIALIZED (
    SELECT {line} AS line, j.ctid AS address, j.crashes, j.priority, j.ticket
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.queue = %(queue_{line})s AND j.state = 'Enqueued' AND {unless_left}
    ORDER BY j.priority DESC, j.ticket
    LIMIT %(limit)s - ({taken})
    FOR UPDATE SKIP LOCKED
)

-- name: claim_refs
-- Waits for locks: a reference that is passed over is lost until somebody looks for it. They come in the order of ids.
-- Tells the ids that are new claims.
WITH {moment}, found AS MATERIALIZED (
    SELECT r.id
    FROM unnest(%(ids)s::text[], %(epochs)s::integer[]) AS r (id, epoch)
    CROSS JOIN LATERAL (
        SELECT
        FROM {schema}.job AS j
        WHERE j.app = {app} AND j.id = r.id AND j.epoch = r.epoch AND j.state = concat('Enqueued') AND {unless_left}
        FOR UPDATE
    ) AS locked
), {leased}, chosen AS MATERIALIZED (
    SELECT f.id FROM found AS f, leased
), claimed AS (
    {claim_it}
    WHERE j.app = {app} AND j.id = ANY(ARRAY(SELECT id FROM chosen))
    RETURNING j.id, j.queue
), {count_claimed}
SELECT id FROM claimed;

-- name: held_refs
-- After `claim_refs`: those that the worker holds now, whether it got them by this call or by an earlier one.
WITH {moment}
SELECT {claim}
FROM unnest(%(ids)s::text[], %(epochs)s::integer[]) AS r (id, epoch)
CROSS JOIN LATERAL (
    SELECT j.*
    FROM {schema}.job AS j
    WHERE j.app = {app} AND j.id = r.id AND j.epoch = r.epoch AND j.state = concat('Processing')
        AND j.server = %(server)s AND j.worker = %(worker)s AND {unless_left}
    OFFSET 0
) AS c
{parent_of_claim}
WHERE EXISTS (
    SELECT FROM {schema}.server AS s WHERE s.app = {app} AND s.id = %(server)s AND s.lease_until > {now}
);
