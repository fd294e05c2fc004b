-- The tables of `later` in a PostgreSQL database. {schema} is a schema of its own, "later" unless another was named.
--
--   app       one row per namespace; every other table names it by number
--   job       one row per job that has not ended: the hot table, as small as the work in hand
--   ended     one row per job that has ended; the columns of job
--   error     the errors of history entries, kept apart so that a long traceback is written once only
--   tally     how many jobs there are by queue and state, as a sum of differences
--   server    the running process trees and their leases
--   schedule  what makes recurring jobs
--
-- A job moves from job to ended in the transaction that ends it, and back when it is requeued: at any moment a snapshot
-- sees it in one of the two. So a claim works on a table and on indexes whose size does not depend on the past, and
-- vacuum of the hot table does not read the indexes of ten million finished jobs. Not partitions of one table: a row
-- lock that meets a row on its way to another partition is an error in PostgreSQL, between tables it just finds the row
-- gone.
--
-- The namespace is a column, not a schema per app: one migration and one set of cached plans serve all apps of a
-- database, nobody needs the right to create schemas while a program runs, and no statement depends on the search_path,
-- which is not ours in a transaction of the user or behind a pooler.
--
-- Times are microseconds since the Unix epoch. Text is compared by its bytes (collation C): the order of ids is that of
-- every other storage, and the indexes do not depend on the locale of the operating system.

CREATE TABLE {schema}.app (
    num integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text COLLATE "C" NOT NULL UNIQUE
);

-- Numbers jobs in the order of their creation, and gives out places in the lines of Enqueued jobs.
CREATE SEQUENCE {schema}.turn;

CREATE TYPE {schema}.entry AS (
    state text,
    at bigint,
    reason text,
    attempt integer,
    server text,
    worker text
);

CREATE TABLE {schema}.job (
    num bigint NOT NULL,                   -- rises with every insert: the order of creation
    ticket bigint,                         -- Enqueued: the place in the line of its queue and priority
    created_at bigint NOT NULL,
    state_at bigint NOT NULL,
    run_at bigint,
    deferred_at bigint,
    publish_by bigint,
    expires_at bigint,
    app integer NOT NULL,
    epoch integer NOT NULL,
    attempt integer NOT NULL,
    crashes integer NOT NULL,
    max_crashes integer NOT NULL,
    entries integer NOT NULL,              -- history entries ever written, the number of the newest
    priority smallint NOT NULL,
    cancel_requested boolean NOT NULL,
    -- A job was inserted under this one. Written under the row's lock, so that who ends the job knows by the row
    -- itself, without a look at other rows that its snapshot may not show yet, whether anybody may be waiting.
    has_children boolean NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    continues_on text COLLATE "C" NOT NULL,
    server text COLLATE "C",
    worker text COLLATE "C",
    parent text COLLATE "C",
    reason text COLLATE "C" NOT NULL,
    history {schema}.entry[] NOT NULL,     -- the newest entries, oldest first
    payload bytea NOT NULL,
    result bytea
);

CREATE TABLE {schema}.ended (LIKE {schema}.job);

-- One CHECK per table, because every statement that writes pays for reading each of them anew. What a state requires;
-- the order is that of the traffic.
ALTER TABLE {schema}.job ADD CONSTRAINT job_pkey PRIMARY KEY (id, app), ADD CONSTRAINT job_fits_state CHECK (
    CASE state
        WHEN 'Enqueued' THEN ticket IS NOT NULL AND epoch > 0
        WHEN 'Processing' THEN ticket IS NULL AND publish_by IS NULL AND server IS NOT NULL AND worker IS NOT NULL
        WHEN 'Scheduled' THEN ticket IS NULL AND publish_by IS NULL AND run_at IS NOT NULL
        WHEN 'Awaiting' THEN ticket IS NULL AND publish_by IS NULL AND parent IS NOT NULL
        ELSE false
    END AND expires_at IS NULL AND result IS NULL
);

ALTER TABLE {schema}.ended ADD CONSTRAINT ended_pkey PRIMARY KEY (id, app), ADD CONSTRAINT ended_fits_state CHECK (
    CASE state
        WHEN 'Succeeded' THEN true
        WHEN 'Failed' THEN result IS NULL
        WHEN 'Deleted' THEN result IS NULL
        ELSE false
    END AND expires_at IS NOT NULL AND ticket IS NULL AND publish_by IS NULL AND run_at IS NULL AND NOT cancel_requested
);

-- The primary keys are the only indexes that a lookup by id can use, whatever the planner believes about tables that
-- were empty when it last looked: every other index is partial, and its predicate is told by the statements that it is
-- for. So predicates that exclude no row are on purpose. And the column that tells most comes first: a list of values
-- (ANY) for a later one may be left to a filter.

-- What a server asks for again and again.
CREATE INDEX job_ready ON {schema}.job (queue, app, priority DESC, ticket) WHERE state = 'Enqueued';
CREATE INDEX job_due ON {schema}.job (app, run_at, id) WHERE state = 'Scheduled';
CREATE INDEX job_claimed ON {schema}.job (server, app, state_at) WHERE state = 'Processing';
CREATE INDEX job_unpublished ON {schema}.job (app, publish_by, id) WHERE publish_by IS NOT NULL;
CREATE INDEX job_children ON {schema}.job (parent, app) WHERE parent IS NOT NULL;
CREATE INDEX ended_children ON {schema}.ended (parent, app) WHERE parent IS NOT NULL;
CREATE INDEX ended_expiry ON {schema}.ended (app, expires_at) WHERE expires_at IS NOT NULL;

-- Lists for people. Jobs of one instant are sorted by id when they are read: ids here would double the index.
CREATE INDEX job_listing ON {schema}.job (app, state, state_at) WHERE state_at IS NOT NULL;
CREATE INDEX ended_listing ON {schema}.ended (app, state, state_at) WHERE state_at IS NOT NULL;

-- Every row of the hot table is written three times and gone: vacuum has to come by the number of dead rows, not by
-- their share of a table that may hold a million jobs in the morning and ten at night, and has to finish quickly.
ALTER TABLE {schema}.job SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE VIEW {schema}.every_job AS SELECT * FROM {schema}.job UNION ALL SELECT * FROM {schema}.ended;

CREATE TABLE {schema}.error (
    job bigint NOT NULL,                   -- num of the job
    entry integer NOT NULL,                -- 1 is the first of its history
    error text NOT NULL,                   -- a JSON array: type, message, traceback
    PRIMARY KEY (job, entry)
);

-- Rows are only added, and summed up at intervals: one row per queue and state that everybody counts up would make
-- every end of a job wait for the commit of another one.
CREATE TABLE {schema}.tally (
    app integer NOT NULL,
    jobs bigint NOT NULL,
    queue text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL
);
CREATE INDEX tally_app ON {schema}.tally (app);
ALTER TABLE {schema}.tally SET (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- Ended jobs that have told only some of their children so far.
CREATE TABLE {schema}.untold (
    num bigint GENERATED ALWAYS AS IDENTITY,
    app integer NOT NULL,
    parent text COLLATE "C" NOT NULL,      -- its id
    told bigint NOT NULL,                  -- num of the last child that was told
    PRIMARY KEY (app, parent)
);

CREATE TABLE {schema}.server (
    app integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    node text,
    host text NOT NULL,
    pid bigint NOT NULL,
    pid_started text,
    queues text[] NOT NULL,
    slots integer NOT NULL,
    started_at bigint NOT NULL,
    lease_until bigint NOT NULL,
    note text NOT NULL DEFAULT '',         -- what its last beat said
    ended boolean NOT NULL,                -- unregistered, its last claims are not rescued yet
    PRIMARY KEY (app, id)
) WITH (fillfactor = 50);                  -- room on the page for what the beats write

CREATE TABLE {schema}.schedule (
    app integer NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,               -- 0, within a transaction: a place that is held for a new one
    next_at bigint,
    body bytea NOT NULL,                   -- JSON of the core's
    PRIMARY KEY (app, id)
) WITH (fillfactor = 50);                  -- room on the page for what every tick writes

CREATE INDEX schedule_due ON {schema}.schedule (app, next_at, id) WHERE next_at IS NOT NULL;
