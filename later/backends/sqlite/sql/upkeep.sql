-- What servers do at intervals: leases, due jobs, the outbox, clearing away. See jobs.sql for the conventions.

-- name: find_app
SELECT num FROM later_app WHERE name = :name;

-- name: add_app
INSERT INTO later_app (name) VALUES (:name) ON CONFLICT DO NOTHING;

-- name: register
-- A server that is registered keeps its lease: the call was repeated. One that had ended starts anew.
INSERT INTO later_server (
    app, id, node, host, pid, pid_started, queues, slots, started_at, lease_until, ended
) VALUES (
    :app, :id, :node, :host, :pid, :pid_started, :queues, :slots, :now, :lease_until, 0
)
ON CONFLICT (app, id) DO UPDATE
SET node = excluded.node, host = excluded.host, pid = excluded.pid, pid_started = excluded.pid_started,
    queues = excluded.queues, slots = excluded.slots, started_at = excluded.started_at,
    lease_until = excluded.lease_until, note = '', ended = 0
WHERE ended = 1;

-- name: lease_of
SELECT lease_until FROM later_server WHERE app = :app AND id = :server;

-- name: renew
UPDATE later_server
SET lease_until = :lease_until, note = :note
WHERE app = :app AND id = :server AND lease_until > :now;

-- name: cancels
SELECT id, epoch
FROM later_job INDEXED BY later_job_claimed
WHERE state = 'Processing' AND app = :app AND server = :server AND cancel_requested = 1
ORDER BY state_at, id;

-- name: end_server
-- Kept, unseen, while it holds claims: that is how `rescue` finds them without looking at every claim there is.
UPDATE later_server SET lease_until = min(lease_until, :now), ended = 1 WHERE app = :app AND id = :server;

-- name: servers
SELECT s.id, s.node, s.host, s.pid, s.pid_started, s.queues, s.slots, s.started_at, s.lease_until, s.note,
    (
        SELECT count(*)
        FROM later_job AS j INDEXED BY later_job_claimed
        WHERE j.state = 'Processing' AND j.app = s.app AND j.server = s.id
    )
FROM later_server AS s
WHERE s.app = :app AND s.ended = 0
ORDER BY s.started_at, s.id;

-- name: held
SELECT id, epoch, worker
FROM later_job INDEXED BY later_job_claimed
WHERE state = 'Processing' AND app = :app AND server = :server
ORDER BY state_at, id;

-- name: has_lapsed
SELECT EXISTS (
    SELECT 1
    FROM later_server
    WHERE app = :app AND (lease_until <= :now OR id IN (SELECT value FROM json_each(:dead)))
);

-- name: end_leases
UPDATE later_server
SET lease_until = :now
WHERE app = :app AND lease_until > :now AND id IN (SELECT value FROM json_each(:dead));

-- name: lapsed
-- Servers whose lease has run out. One that ended in order is none of them, unless it has left claims.
SELECT s.id
FROM later_server AS s
WHERE s.app = :app AND s.lease_until <= :now AND (s.ended = 0 OR {holds_claims})
ORDER BY s.id;

-- name: orphaned
-- Claims of servers whose lease has run out, oldest first.
SELECT {job}, x''
FROM later_server AS s
CROSS JOIN later_job AS j INDEXED BY later_job_claimed
    ON j.state = 'Processing' AND j.app = :app AND j.server = s.id
WHERE s.app = :app AND s.lease_until <= :now
ORDER BY j.state_at, j.id
LIMIT :limit;

-- name: forget_servers
DELETE FROM later_server AS s WHERE s.app = :app AND s.lease_until <= :now AND NOT {holds_claims};

-- fragment: holds_claims
EXISTS (
    SELECT 1
    FROM later_job AS j INDEXED BY later_job_claimed
    WHERE j.state = 'Processing' AND j.app = s.app AND j.server = s.id
)

-- name: cascades
SELECT parent, told FROM later_cascade WHERE app = :app ORDER BY num LIMIT 100;

-- name: next_due
SELECT run_at
FROM later_job INDEXED BY later_job_due
WHERE state = 'Scheduled' AND app = :app
ORDER BY run_at
LIMIT 1;

-- name: due
SELECT {job}, x''
FROM later_job AS j INDEXED BY later_job_due
WHERE j.state = 'Scheduled' AND j.app = :app AND j.run_at <= :now
ORDER BY j.run_at, j.id
LIMIT :limit;

-- name: has_unpublished
SELECT EXISTS (
    SELECT 1 FROM later_job INDEXED BY later_job_unpublished WHERE app = :app AND publish_by <= :now
);

-- name: unpublished
SELECT {job}, x''
FROM later_job AS j INDEXED BY later_job_unpublished
WHERE j.app = :app AND j.publish_by <= :now
ORDER BY j.publish_by, j.id
LIMIT :limit;

-- name: has_to_confirm
SELECT EXISTS (
    SELECT 1
    FROM json_each(:refs) AS ref
    CROSS JOIN later_job AS j INDEXED BY later_job_id
        ON j.app = :app AND j.id = json_extract(ref.value, '$[0]') AND j.epoch = json_extract(ref.value, '$[1]')
    WHERE j.publish_by IS NOT NULL
);

-- name: confirm
UPDATE later_job SET publish_by = NULL
WHERE app = :app AND publish_by IS NOT NULL AND (id, epoch) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:refs)
);

-- name: waiting
SELECT {job}, x''
FROM later_job AS j INDEXED BY later_job_listing
WHERE j.app = :app AND j.state = 'Enqueued' AND j.state_at <= :until AND (j.state_at, j.id) > (:at, :id)
ORDER BY j.state_at, j.id
LIMIT :limit;

-- name: has_expired
SELECT EXISTS (
    SELECT 1
    FROM later_job AS j INDEXED BY later_job_expiry
    WHERE j.app = :app AND j.expires_at <= :now AND (j.state = 'Failed' OR {childless})
);

-- name: expired
SELECT {job}, x''
FROM later_job AS j INDEXED BY later_job_expiry
WHERE j.app = :app AND j.expires_at <= :now AND (j.state = 'Failed' OR {childless})
ORDER BY j.expires_at, j.id
LIMIT :limit;

-- fragment: childless
-- No child of the job still needs it.
NOT EXISTS (
    SELECT 1
    FROM later_job AS child INDEXED BY later_job_children
    WHERE child.app = j.app AND child.parent = j.id AND child.state NOT IN ('Succeeded', 'Failed', 'Deleted')
)
