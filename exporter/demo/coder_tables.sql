-- The tables of a Coder deployment that the exporter reads, written anew from their column lists:
-- same names, types and nullability, none of Coder's indexes, triggers or foreign keys.
CREATE TYPE provisioner_type AS ENUM ('echo', 'terraform');
CREATE TYPE provisioner_storage_method AS ENUM ('file');
CREATE TYPE provisioner_job_type AS ENUM
    ('template_version_import', 'workspace_build', 'template_version_dry_run');
CREATE TYPE provisioner_job_status AS ENUM
    ('pending', 'running', 'succeeded', 'canceling', 'canceled', 'failed', 'unknown');

CREATE TABLE schema_migrations (
    version bigint PRIMARY KEY,
    dirty boolean NOT NULL
);

CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    is_default boolean NOT NULL DEFAULT false,
    display_name text NOT NULL DEFAULT '',
    icon text NOT NULL DEFAULT '',
    deleted boolean NOT NULL DEFAULT false
);

CREATE TABLE workspace_proxies (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    icon text NOT NULL DEFAULT '',
    url text NOT NULL DEFAULT '',
    wildcard_hostname text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted boolean NOT NULL DEFAULT false,
    token_hashed_secret bytea NOT NULL DEFAULT '',
    region_id integer NOT NULL UNIQUE,
    derp_enabled boolean NOT NULL DEFAULT true,
    derp_only boolean NOT NULL DEFAULT false,
    version text NOT NULL DEFAULT ''
);

CREATE TABLE replicas (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz NOT NULL DEFAULT now(),
    stopped_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    hostname text NOT NULL DEFAULT '',
    region_id integer NOT NULL,
    relay_address text NOT NULL DEFAULT '',
    database_latency integer NOT NULL DEFAULT 0, -- microseconds
    version text NOT NULL DEFAULT '',
    error text NOT NULL DEFAULT '',
    "primary" boolean NOT NULL DEFAULT true
);

CREATE TABLE tailnet_coordinators (
    id uuid PRIMARY KEY,
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE provisioner_keys (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    organization_id uuid NOT NULL,
    name varchar(64) NOT NULL,
    hashed_secret bytea NOT NULL DEFAULT '',
    tags jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE provisioner_daemons (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    name varchar(64) NOT NULL,
    provisioners provisioner_type[] NOT NULL,
    replica_id uuid,
    tags jsonb NOT NULL DEFAULT '{}',
    last_seen_at timestamptz,
    version text NOT NULL DEFAULT '',
    api_version text NOT NULL DEFAULT '1.0',
    organization_id uuid NOT NULL,
    key_id uuid NOT NULL
);

CREATE TABLE provisioner_jobs (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    canceled_at timestamptz,
    completed_at timestamptz,
    error text,
    organization_id uuid NOT NULL,
    initiator_id uuid NOT NULL,
    provisioner provisioner_type NOT NULL,
    storage_method provisioner_storage_method NOT NULL,
    type provisioner_job_type NOT NULL,
    input jsonb NOT NULL DEFAULT '{}',
    worker_id uuid,
    file_id uuid NOT NULL,
    tags jsonb NOT NULL DEFAULT '{}',
    error_code text,
    trace_metadata jsonb,
    job_status provisioner_job_status NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN completed_at IS NOT NULL AND coalesce(error, '') <> '' THEN 'failed'::provisioner_job_status
            WHEN completed_at IS NOT NULL AND canceled_at IS NOT NULL THEN 'canceled'::provisioner_job_status
            WHEN completed_at IS NOT NULL THEN 'succeeded'::provisioner_job_status
            WHEN canceled_at IS NOT NULL THEN 'canceling'::provisioner_job_status
            WHEN started_at IS NOT NULL THEN 'running'::provisioner_job_status
            ELSE 'pending'::provisioner_job_status
        END
    ) STORED,
    logs_length integer NOT NULL DEFAULT 0,
    logs_overflowed boolean NOT NULL DEFAULT false
);

INSERT INTO schema_migrations VALUES (362, false);
INSERT INTO organizations (id, name, display_name, is_default)
    VALUES ('c7b58c7d-e615-412e-987b-21182b096a39', 'coder', 'Coder', true);
INSERT INTO provisioner_keys (id, organization_id, name)
    VALUES ('00000000-0000-0000-0000-000000000001', 'c7b58c7d-e615-412e-987b-21182b096a39', 'built-in');
