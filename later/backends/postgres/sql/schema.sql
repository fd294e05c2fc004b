-- Upgrades of the schema, told in the table `migration`. See jobs.sql for the conventions.

-- name: has_migrations
-- Asked of the catalog: to_regclass remembers that there was none, over the wait for somebody else who was creating it.
SELECT EXISTS (
    SELECT
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = 'migration'
);

-- name: version
SELECT coalesce(max(version), 0) FROM {schema}.migration;

-- name: wait_patiently
SET LOCAL statement_timeout = 0;

-- name: lock_upgrade
SELECT pg_advisory_xact_lock(%(key)s::bigint);

-- name: create_schema
-- Not IF NOT EXISTS alone, which asks for the right to create one also when it is there.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = btrim('{schema}', '"')) THEN
        CREATE SCHEMA {schema};
    END IF;
END
$$;

-- name: create_migrations
CREATE TABLE IF NOT EXISTS {schema}.migration (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: add_migration
INSERT INTO {schema}.migration (version, name) VALUES (%(version)s::integer, %(name)s);
