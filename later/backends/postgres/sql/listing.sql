-- What people and programs ask about jobs. See jobs.sql for the conventions.

-- name: details
SELECT {job}, j.payload, j.result, to_json(j.history)
FROM {schema}.every_job AS j
WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]);

-- name: errors
SELECT e.job, e.entry, e.error
FROM {schema}.every_job AS j
CROSS JOIN LATERAL (SELECT * FROM {schema}.error AS n WHERE n.job = j.num OFFSET 0) AS e
WHERE j.app = {app} AND j.id = ANY(%(ids)s::text[]);

-- name: children
SELECT j.parent, j.id
FROM {schema}.every_job AS j
WHERE j.app = {app} AND j.parent = ANY(%(ids)s::text[])
ORDER BY j.num;

-- name: in_order
-- Before the lists: the order of an index, completed by a sort of the jobs of one instant, and never a sort of all.
SELECT set_config('enable_sort', 'off', true);

-- name: find_in_states
-- One state at a time, so that the index gives the order and the limit bounds the work.
SELECT f.*
FROM unnest(%(states)s::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    (
        SELECT {job} FROM {schema}.job AS j
        WHERE j.app = {app} AND j.state = wanted.state AND j.state_at <= %(after_at)s AND {matching}
        ORDER BY j.state_at DESC, j.id DESC
        LIMIT %(limit)s
    ) UNION ALL (
        SELECT {job} FROM {schema}.ended AS j
        WHERE j.app = {app} AND j.state = wanted.state AND j.state_at <= %(after_at)s AND {matching}
        ORDER BY j.state_at DESC, j.id DESC
        LIMIT %(limit)s
    )
) AS f;

-- name: find_children
SELECT {job}
FROM {schema}.every_job AS j
WHERE j.app = {app} AND j.parent = %(parent)s AND j.state = ANY(%(states)s::text[]) AND {matching}
ORDER BY j.state_at DESC, j.id DESC
LIMIT %(limit)s;

-- fragment: matching
-- The other conditions of a query, and the cursor.
(j.state_at, j.id) < (%(after_at)s, %(after_id)s)
    AND (%(queues)s::text[] IS NULL OR j.queue = ANY(%(queues)s::text[]))
    AND (%(types)s::text[] IS NULL OR j.type = ANY(%(types)s::text[]))

-- name: counts
SELECT queue, state, sum(jobs)::bigint
FROM {schema}.tally
WHERE app = {app}
GROUP BY queue, state
HAVING sum(jobs) <> 0;

-- name: has_ready
-- Skips what somebody is claiming already: it would wake every idle worker for one job.
SELECT FROM {schema}.job AS j
WHERE j.app = {app} AND j.queue = ANY(%(queues)s::text[]) AND j.state = 'Enqueued'
LIMIT 1
FOR UPDATE SKIP LOCKED;
