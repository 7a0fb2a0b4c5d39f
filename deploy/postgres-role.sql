-- A role of PostgreSQL for coder-health-exporter: it can ping the database and read what the health
-- checks need, and nothing else. Run it in Coder's database, as the database's owner or a superuser:
--
--     psql "$CODER_PG_CONNECTION_URL" -f deploy/postgres-role.sql
--
-- It asks for the role's password. A script sets the variables instead, and not on the command
-- line, where others would see them:
--
--     { echo "\set password 'the password'"; cat deploy/postgres-role.sql; } | psql "$CODER_PG_CONNECTION_URL"
--
-- Variables: password; role (default: coder_exporter). It can be run again at any time: to change
-- the password, and after an upgrade of Coder, since a table that a migration drops and creates
-- anew has lost its grants.

\set ON_ERROR_STOP on
\if :{?role}
\else
    \set role coder_exporter
\endif
\if :{?password}
\else
    \prompt 'Password for the new role: ' password
\endif

BEGIN;

SELECT format('CREATE ROLE %I', :'role')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'role')
\gexec

-- An exporter keeps four connections and opens a fifth to measure it. Twelve are enough for two exporters,
-- one of which is started anew; a runaway exporter cannot use up what Coder needs.
-- The statement may end up in the server's log only if this session logs statements.
SET LOCAL log_statement = 'none';
ALTER ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT CONNECTION LIMIT 12 PASSWORD :'password';

-- A second fence: even what somebody grants by mistake is only read, and never for long.
ALTER ROLE :"role" SET default_transaction_read_only = on;
ALTER ROLE :"role" SET statement_timeout = '5s';

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role')
\gexec
GRANT USAGE ON SCHEMA public TO :"role";

-- Columns are named one by one, so that the secrets beside them (token_hashed_secret, hashed_secret)
-- stay out of reach, also when a later version of Coder adds more. Columns and tables that this
-- version of Coder does not have are left out. No view is created: it would stop Coder's migrations.
SELECT format(
    'GRANT SELECT (%s) ON public.%I TO %I',
    string_agg(quote_ident(wanted.column_name), ', ' ORDER BY existing.ordinal_position),
    wanted.table_name,
    :'role'
)
FROM (
    SELECT tables.table_name, unnest(string_to_array(tables.column_names, ' ')) AS column_name
    FROM (
        VALUES
            -- the list of proxies
            ('workspace_proxies', 'id name display_name url wildcard_hostname created_at updated_at deleted '
                || 'region_id derp_enabled derp_only version'),
            -- which replicas of Coder and of the proxies run, and which were stopped on purpose
            ('replicas', 'id created_at started_at stopped_at updated_at hostname region_id relay_address '
                || 'database_latency version error primary'),
            -- provisioner daemons and the jobs that wait for them
            ('provisioner_daemons', 'id created_at name provisioners tags last_seen_at version api_version '
                || 'organization_id key_id'),
            ('provisioner_keys', 'id name organization_id'),
            ('provisioner_jobs', 'id organization_id created_at started_at completed_at canceled_at worker_id tags '
                || 'job_status provisioner'),
            ('organizations', 'id name display_name is_default deleted'),
            ('tailnet_coordinators', 'id heartbeat_at'),
            -- tells when the columns may have changed
            ('schema_migrations', 'version dirty')
    ) AS tables (table_name, column_names)
) AS wanted
JOIN information_schema.columns AS existing
    ON existing.table_schema = 'public'
    AND existing.table_name = wanted.table_name
    AND existing.column_name = wanted.column_name
GROUP BY wanted.table_name
\gexec

COMMIT;
