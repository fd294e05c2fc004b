-- What makes recurring jobs. See jobs.sql for the conventions.

-- name: schedules
SELECT id, version, next_at, body FROM later_schedule WHERE app = :app ORDER BY id;

-- name: schedules_by_id
SELECT s.id, s.version, s.next_at, s.body
FROM json_each(:ids) AS wanted
CROSS JOIN later_schedule AS s ON s.app = :app AND s.id = wanted.value;

-- name: due_schedules
-- One more than the limit tells when the next is due.
SELECT id, version, next_at, body
FROM later_schedule INDEXED BY later_schedule_due
WHERE app = :app AND next_at IS NOT NULL
ORDER BY next_at, id
LIMIT :limit;

-- name: save_schedule
INSERT INTO later_schedule (app, id, version, next_at, body) VALUES (:app, :id, :version, :next_at, :body)
ON CONFLICT (app, id) DO UPDATE
SET version = excluded.version, next_at = excluded.next_at, body = excluded.body;

-- name: remove_schedule
DELETE FROM later_schedule WHERE app = :app AND id = :id;
