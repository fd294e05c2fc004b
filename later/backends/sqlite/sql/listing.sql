-- What people and programs ask about jobs. See jobs.sql for the conventions.

-- name: history
SELECT state, at, reason, attempt, server, worker, error FROM later_history WHERE job = :job ORDER BY entry;

-- name: children
SELECT id FROM later_job INDEXED BY later_job_children WHERE app = :app AND parent = :parent ORDER BY num;

-- name: find_in_state
-- One state at a time, so that the index gives the order and the limit bounds the work.
SELECT {listed}
FROM later_job AS j INDEXED BY later_job_listing
WHERE j.app = :app AND j.state = :state AND {matching}
ORDER BY j.state_at DESC, j.id DESC
LIMIT :limit;

-- name: find_children
SELECT {listed}
FROM later_job AS j INDEXED BY later_job_children
WHERE j.app = :app AND j.parent = :parent AND {matching}
    AND (:states IS NULL OR j.state IN (SELECT value FROM json_each(:states)))
ORDER BY j.state_at DESC, j.id DESC
LIMIT :limit;

-- fragment: listed
-- The columns of `job`, without result and payload.
j.num, j.entries, j.ticket, j.id, j.type, j.queue, j.priority, j.state, j.epoch, j.attempt, j.crashes, j.max_crashes,
    j.created_at, j.state_at, j.run_at, j.server, j.worker, j.parent, j.continues_on, j.reason, NULL,
    j.cancel_requested, j.deferred_at, j.publish_by, j.expires_at, x''

-- fragment: matching
-- The other conditions of a query, and the cursor.
(j.state_at, j.id) < (:after_at, :after_id)
    AND (:queues IS NULL OR j.queue IN (SELECT value FROM json_each(:queues)))
    AND (:types IS NULL OR j.type IN (SELECT value FROM json_each(:types)))

-- name: counts
SELECT queue, state, jobs FROM later_count WHERE app = :app AND jobs > 0;
