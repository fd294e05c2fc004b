-- The tables of `later` in a SQLite file, which may hold the tables of other programs as well.
--
--   later_app       one row per namespace; every other table names it by number
--   later_job       one row per job
--   later_payload   payloads too large for the job's row
--   later_history   the states that a job entered, but for the first of a job that has not changed since its insert
--   later_count     how many jobs there are, by queue and state
--   later_server    the running process trees and their leases
--   later_schedule  what makes recurring jobs
--
-- The namespace is a column of one set of tables, not a prefix of table names. As a number it costs one byte per row and
-- per index entry; table names do not tell `App` from `app`; and one migration serves all namespaces of the file.
--
-- Times are microseconds since the Unix epoch.
--
-- The CHECKs of later_job say `a OR b` and CASE, never IN: SQLite builds a table for an IN list each time it checks a row,
-- which alone doubles the cost of an insert.

CREATE TABLE later_app (
    num INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE later_job (
    num INTEGER PRIMARY KEY,               -- rises with every insert: the order of creation
    app INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    crashes INTEGER NOT NULL CHECK (crashes >= 0),
    max_crashes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state_at INTEGER NOT NULL,
    run_at INTEGER,
    server TEXT,
    worker TEXT,
    parent TEXT,
    continues_on TEXT NOT NULL CHECK (
        continues_on = 'succeeded' OR continues_on = 'failed' OR continues_on = 'deleted' OR continues_on = 'finished'
    ),
    reason TEXT NOT NULL,
    cancel_requested INTEGER NOT NULL,
    deferred_at INTEGER,
    publish_by INTEGER,
    expires_at INTEGER,
    ticket INTEGER,                        -- Enqueued: the place in the line of its queue and priority
    entries INTEGER NOT NULL,              -- history entries ever written, the number of the newest; 0 after the insert
    payload BLOB,                          -- NULL: in later_payload
    result BLOB,                           -- last: the pages of a long one are read only when it is asked for

    -- What each state requires; the order is that of the traffic.
    CHECK (
        CASE state
            WHEN 'Enqueued' THEN epoch > 0 AND ticket IS NOT NULL AND expires_at IS NULL
            WHEN 'Processing' THEN epoch > 0 AND server IS NOT NULL AND worker IS NOT NULL AND expires_at IS NULL
            WHEN 'Succeeded' THEN expires_at IS NOT NULL
            WHEN 'Scheduled' THEN run_at IS NOT NULL AND expires_at IS NULL
            WHEN 'Awaiting' THEN parent IS NOT NULL AND expires_at IS NULL
            WHEN 'Failed' THEN expires_at IS NOT NULL
            WHEN 'Deleted' THEN expires_at IS NOT NULL
            ELSE 0
        END
    ),
    CHECK (run_at IS NULL OR state = 'Scheduled'),
    CHECK (ticket IS NULL OR state = 'Enqueued'),
    CHECK (publish_by IS NULL OR state = 'Enqueued'),
    CHECK (result IS NULL OR state = 'Succeeded'),
    CHECK (cancel_requested = 0 OR (cancel_requested = 1 AND state = 'Processing'))
) STRICT;

CREATE UNIQUE INDEX later_job_id ON later_job (app, id);

-- What a server asks for again and again is in indexes that hold only the jobs in question, so that a million finished
-- jobs do not slow a claim.
CREATE INDEX later_job_ready ON later_job (app, queue, priority DESC, ticket) WHERE state = 'Enqueued';
CREATE INDEX later_job_due ON later_job (app, run_at, id) WHERE state = 'Scheduled';
CREATE INDEX later_job_claimed ON later_job (app, server, state_at) WHERE state = 'Processing';
CREATE INDEX later_job_unpublished ON later_job (app, publish_by) WHERE publish_by IS NOT NULL;
CREATE INDEX later_job_expiry ON later_job (app, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX later_job_children ON later_job (app, parent) WHERE parent IS NOT NULL;

-- Lists for people. Jobs of one instant are sorted by id when they are read: ids here would double the index.
CREATE INDEX later_job_listing ON later_job (app, state, state_at);

-- SQLite writes a row that changes anew, with all its pages; a large payload is written once only.
CREATE TABLE later_payload (
    job INTEGER PRIMARY KEY,
    payload BLOB NOT NULL
) STRICT;

CREATE TABLE later_history (
    job INTEGER NOT NULL,
    entry INTEGER NOT NULL,                -- 1 is the first
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    server TEXT,
    worker TEXT,
    error TEXT,
    PRIMARY KEY (job, entry)
) STRICT, WITHOUT ROWID;

-- Kept in the transaction that moves the jobs: counting the rows of a large table takes seconds.
CREATE TABLE later_count (
    app INTEGER NOT NULL,
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs INTEGER NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (app, queue, state)
) STRICT, WITHOUT ROWID;

-- Ended jobs that have told only some of their children so far.
CREATE TABLE later_cascade (
    num INTEGER PRIMARY KEY,
    app INTEGER NOT NULL,
    parent TEXT NOT NULL,                  -- its id
    told INTEGER NOT NULL,                 -- num of the last child that was told
    UNIQUE (app, parent)
) STRICT;

CREATE TABLE later_server (
    num INTEGER PRIMARY KEY,
    app INTEGER NOT NULL,
    id TEXT NOT NULL,
    node TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started TEXT,
    queues TEXT NOT NULL,                  -- a JSON array
    slots INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    note TEXT NOT NULL DEFAULT '',         -- what its last beat said
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),   -- 1: unregistered, its last claims are not rescued yet
    UNIQUE (app, id)
) STRICT;

CREATE TABLE later_schedule (
    app INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    next_at INTEGER,
    body BLOB NOT NULL,                    -- JSON of the core's
    PRIMARY KEY (app, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX later_schedule_due ON later_schedule (app, next_at, id) WHERE next_at IS NOT NULL;
