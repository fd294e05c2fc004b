-- What makes recurring jobs. See jobs.sql for the conventions.

-- name: schedules
SELECT s.id, s.version, s.next_at, s.body FROM {schema}.schedule AS s WHERE s.app = {app} ORDER BY s.id;

-- name: schedules_by_id
SELECT s.id, s.version, s.next_at, s.body
FROM {schema}.schedule AS s
WHERE s.app = {app} AND s.id = ANY(%(ids)s::text[]);

-- name: due_schedules
-- One more than the limit tells when the next is due.
SELECT s.id, s.version, s.next_at, s.body
FROM {schema}.schedule AS s
WHERE s.app = {app} AND s.next_at IS NOT NULL
ORDER BY s.next_at, s.id
LIMIT %(limit)s;

-- name: hold_schedules
-- Places for schedules that are to be made, so that who makes the same one waits for the commit.
INSERT INTO {schema}.schedule (app, id, version, next_at, body)
SELECT {app}, id, 0, NULL, '' FROM unnest(%(ids)s::text[]) AS id
ON CONFLICT (app, id) DO NOTHING;

-- name: lock_schedules
SELECT s.id, s.version, s.next_at, s.body
FROM {schema}.schedule AS s
WHERE s.app = {app} AND s.id = ANY(%(ids)s::text[])
ORDER BY s.id
FOR UPDATE;

-- name: save_schedules
UPDATE {schema}.schedule AS s
SET version = c.version, next_at = c.next_at, body = decode(c.body, 'hex')
FROM json_to_recordset(%(rows)s::json) AS c (id text, version bigint, next_at bigint, body text)
WHERE s.app = {app} AND s.id = c.id;

-- name: remove_schedules
DELETE FROM {schema}.schedule AS s WHERE s.app = {app} AND s.id = ANY(%(ids)s::text[]);
