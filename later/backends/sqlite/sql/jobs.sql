-- Reading and writing jobs within a transaction; the tables are described in ../migrations/0001_jobs.sql.
--
-- Lists of ids and names come as JSON arrays, so that one prepared statement serves every length. INDEXED BY names an
-- index where the planner, which knows no statistics, might miss that it is small; without the index, the statement fails.

-- fragment: job
-- The columns that `rows.read_row` reads, in its order; the payload follows.
j.num, j.entries, j.ticket, j.id, j.type, j.queue, j.priority, j.state, j.epoch, j.attempt, j.crashes, j.max_crashes,
    j.created_at, j.state_at, j.run_at, j.server, j.worker, j.parent, j.continues_on, j.reason, j.result,
    j.cancel_requested, j.deferred_at, j.publish_by, j.expires_at

-- name: load
SELECT {job}, x''
FROM json_each(:ids) AS wanted
CROSS JOIN later_job AS j INDEXED BY later_job_id ON j.app = :app AND j.id = wanted.value;

-- name: load_with_payload
SELECT {job}, coalesce(j.payload, p.payload)
FROM json_each(:ids) AS wanted
CROSS JOIN later_job AS j INDEXED BY later_job_id ON j.app = :app AND j.id = wanted.value
LEFT JOIN later_payload AS p ON j.payload IS NULL AND p.job = j.num;

-- name: awaited
-- Which of some jobs have Awaiting children.
SELECT wanted.value
FROM json_each(:parents) AS wanted
WHERE EXISTS (
    SELECT 1
    FROM later_job AS j INDEXED BY later_job_children
    WHERE j.app = :app AND j.parent = wanted.value AND j.state = 'Awaiting'
);

-- name: awaiting
-- The next Awaiting children of a job, oldest first: the index has them in the order of their numbers.
SELECT {job}, x''
FROM later_job AS j INDEXED BY later_job_children
WHERE j.app = :app AND j.parent = :parent AND j.num > :after AND j.state = 'Awaiting'
ORDER BY j.num
LIMIT :limit;

-- name: postpone
INSERT INTO later_cascade (app, parent, told) VALUES (?, ?, ?)
ON CONFLICT (app, parent) DO UPDATE SET told = excluded.told;

-- name: settle
DELETE FROM later_cascade WHERE app = ? AND parent = ?;

-- name: ready
-- The next jobs of one queue, in the order of claims.
SELECT {job}, coalesce(j.payload, p.payload)
FROM later_job AS j INDEXED BY later_job_ready
LEFT JOIN later_payload AS p ON j.payload IS NULL AND p.job = j.num
WHERE j.state = 'Enqueued' AND j.app = :app AND j.queue = :queue
ORDER BY j.priority DESC, j.ticket
LIMIT :limit;

-- name: has_ready
SELECT EXISTS (
    SELECT 1
    FROM json_each(:queues) AS wanted
    CROSS JOIN later_job AS j INDEXED BY later_job_ready
        ON j.state = 'Enqueued' AND j.app = :app AND j.queue = wanted.value
);

-- name: has_claimable
-- Whether one of the references may still be claimed, or was claimed by this worker before. :refs is [[id, epoch], ...].
SELECT EXISTS (
    SELECT 1
    FROM json_each(:refs) AS ref
    CROSS JOIN later_job AS j INDEXED BY later_job_id
        ON j.app = :app AND j.id = json_extract(ref.value, '$[0]') AND j.epoch = json_extract(ref.value, '$[1]')
    WHERE j.state = 'Enqueued' OR (j.state = 'Processing' AND j.server = :server AND j.worker = :worker)
);

-- name: last_num
SELECT coalesce(max(num), 0) FROM later_job;

-- name: last_ticket
-- The end of the line of one queue and priority. An empty line starts anew: tickets are compared within a line only.
SELECT ticket
FROM later_job INDEXED BY later_job_ready
WHERE state = 'Enqueued' AND app = ? AND queue = ? AND priority = ?
ORDER BY ticket DESC
LIMIT 1;

-- name: add_job
INSERT INTO later_job (
    app, num, entries, ticket, id, type, queue, priority, state, epoch, attempt, crashes, max_crashes, created_at, state_at,
    run_at, server, worker, parent, continues_on, reason, result, cancel_requested, deferred_at, publish_by, expires_at,
    payload
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_payload
INSERT INTO later_payload (job, payload) VALUES (?, ?);

-- name: save_job
-- The columns that a change can touch.
UPDATE later_job
SET entries = ?, ticket = ?, state = ?, epoch = ?, attempt = ?, crashes = ?, state_at = ?, run_at = ?, server = ?, worker = ?,
    reason = ?, result = ?, cancel_requested = ?, deferred_at = ?, publish_by = ?, expires_at = ?
WHERE num = ?;

-- name: add_history
INSERT INTO later_history (job, entry, state, at, reason, attempt, server, worker, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: trim_history
DELETE FROM later_history WHERE job = ? AND entry <= ?;

-- name: count_more
INSERT INTO later_count (jobs, app, queue, state) VALUES (?, ?, ?, ?)
ON CONFLICT (app, queue, state) DO UPDATE SET jobs = jobs + excluded.jobs;

-- name: count_fewer
UPDATE later_count SET jobs = jobs - ? WHERE app = ? AND queue = ? AND state = ?;

-- name: remove_history
DELETE FROM later_history WHERE job = ?;

-- name: remove_payload
DELETE FROM later_payload WHERE job = ?;

-- name: remove_job
DELETE FROM later_job WHERE num = ?;

-- name: take_turn
-- Changes nothing; but who runs it writes, so that no other transaction can until its end.
UPDATE later_app SET name = name WHERE num = -1;
