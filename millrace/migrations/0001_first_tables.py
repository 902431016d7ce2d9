"""The first tables. Before deployment."""

from typing import Any

from millrace.database import is_sqlite

_STATEMENTS = """
CREATE TABLE workspace (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    status VARCHAR(20) NOT NULL,
    data_key TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE member (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    email VARCHAR(254) NOT NULL,
    password_hash VARCHAR(200) NOT NULL,
    role VARCHAR(30) NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX member_workspace_id_email ON member (workspace_id, email);

CREATE TABLE api_key (
    id VARCHAR(24) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    name VARCHAR(100) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX api_key_workspace_id ON api_key (workspace_id);

CREATE TABLE script (
    uuid VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    slug VARCHAR(63) NOT NULL,
    display_name VARCHAR(200) NOT NULL,
    description TEXT,
    runtime VARCHAR(30) NOT NULL,
    entry_point VARCHAR(200) NOT NULL,
    status VARCHAR(20) NOT NULL,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    memory_mb INTEGER NOT NULL,
    timeout_seconds INTEGER NOT NULL,
    ephemeral_storage_mb INTEGER NOT NULL,
    isolation VARCHAR(10) NOT NULL,
    max_concurrent_runs INTEGER NOT NULL,
    egress_hosts TEXT,
    tags TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX script_workspace_id_slug ON script (workspace_id, slug);
CREATE INDEX script_workspace_id_created_at_uuid ON script (workspace_id, created_at, uuid);

CREATE TABLE version (
    id {serial} PRIMARY KEY,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    hash VARCHAR(64) NOT NULL,
    size INTEGER NOT NULL,
    object_key VARCHAR(200) NOT NULL,
    created_at BIGINT NOT NULL,
    restored_from INTEGER
);
CREATE UNIQUE INDEX version_script_id_number ON version (script_id, number);

CREATE TABLE secret (
    id {serial} PRIMARY KEY,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    name VARCHAR(128) NOT NULL,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX secret_script_id_name ON secret (script_id, name);

CREATE TABLE schedule (
    script_id VARCHAR(36) NOT NULL PRIMARY KEY REFERENCES script (uuid) ON DELETE CASCADE,
    expression VARCHAR(300) NOT NULL,
    time_zone VARCHAR(64) NOT NULL,
    anchor_at BIGINT NOT NULL,
    next_fire_at BIGINT
);
CREATE INDEX schedule_next_fire_at ON schedule (next_fire_at);

CREATE TABLE firing (
    id {serial} PRIMARY KEY,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    due_at BIGINT NOT NULL,
    fired_at BIGINT NOT NULL,
    outcome VARCHAR(20) NOT NULL,
    reason VARCHAR(200),
    run_id VARCHAR(36)
);
CREATE UNIQUE INDEX firing_script_id_due_at ON firing (script_id, due_at);

CREATE TABLE subscription (
    id {serial} PRIMARY KEY,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    pattern VARCHAR(255) NOT NULL,
    filter TEXT
);
CREATE INDEX subscription_script_id ON subscription (script_id);
CREATE INDEX subscription_workspace_id ON subscription (workspace_id);

CREATE TABLE hook (
    script_id VARCHAR(36) NOT NULL PRIMARY KEY REFERENCES script (uuid) ON DELETE CASCADE,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    path VARCHAR(200) NOT NULL,
    methods TEXT NOT NULL,
    auth VARCHAR(20) NOT NULL,
    scheme VARCHAR(20),
    secret TEXT,
    mode VARCHAR(10) NOT NULL
);
CREATE UNIQUE INDEX hook_workspace_id_path ON hook (workspace_id, path);

CREATE TABLE run (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    status VARCHAR(12) NOT NULL,
    trigger VARCHAR(10) NOT NULL,
    mode VARCHAR(5) NOT NULL,
    caller_ip VARCHAR(64) NOT NULL,
    payload TEXT,
    payload_key VARCHAR(200),
    created_at BIGINT NOT NULL,
    available_at BIGINT NOT NULL,
    sent_at BIGINT,
    started_at BIGINT,
    completed_at BIGINT,
    duration_ms INTEGER,
    attempt INTEGER NOT NULL,
    worker VARCHAR(80),
    lease_until BIGINT,
    cancel_requested_at BIGINT,
    error TEXT,
    error_code VARCHAR(40),
    error_stack TEXT,
    result TEXT,
    result_key VARCHAR(200),
    summary TEXT,
    log_key VARCHAR(200),
    log_chunks INTEGER NOT NULL,
    usage TEXT,
    event_id VARCHAR(36),
    due_at BIGINT,
    delivery_id VARCHAR(255),
    depth INTEGER NOT NULL
);
CREATE INDEX run_script_id_created_at_id ON run (script_id, created_at, id);
CREATE INDEX run_workspace_id_created_at_id ON run (workspace_id, created_at, id);
CREATE INDEX run_workspace_id_trigger_created_at_id ON run (workspace_id, trigger, created_at, id);
CREATE UNIQUE INDEX run_event_id_script_id ON run (event_id, script_id);
CREATE UNIQUE INDEX run_script_id_due_at ON run (script_id, due_at);
CREATE UNIQUE INDEX run_script_id_delivery_id ON run (script_id, delivery_id);
CREATE INDEX run_waiting ON run (script_id, available_at, id) WHERE sent_at IS NULL AND completed_at IS NULL;
CREATE INDEX run_holding ON run (script_id, sent_at) WHERE sent_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX run_sent ON run (sent_at) WHERE sent_at IS NOT NULL AND started_at IS NULL AND completed_at IS NULL;
CREATE INDEX run_leased ON run (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX run_log_in_chunks ON run (completed_at)
    WHERE log_key IS NULL AND completed_at IS NOT NULL AND log_chunks > 0;
CREATE INDEX run_workspace_wrong ON run (workspace_id, status, created_at, id)
    WHERE status = 'failed' OR status = 'timed_out' OR status = 'cancelled';
CREATE INDEX run_script_wrong ON run (script_id, status, created_at, id)
    WHERE status = 'failed' OR status = 'timed_out' OR status = 'cancelled';
CREATE INDEX run_workspace_open ON run (workspace_id, created_at, id) WHERE completed_at IS NULL;
CREATE INDEX run_script_open ON run (script_id, created_at, id) WHERE completed_at IS NULL;

CREATE TABLE idempotency_key (
    id {serial} PRIMARY KEY,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    key VARCHAR(255) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    run_id VARCHAR(36) NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX idempotency_key_script_id_key ON idempotency_key (script_id, key);
CREATE INDEX idempotency_key_created_at ON idempotency_key (created_at);

CREATE TABLE artifact (
    id {serial} PRIMARY KEY,
    run_id VARCHAR(36) NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    name VARCHAR(255) NOT NULL,
    size BIGINT NOT NULL,
    content_type VARCHAR(100) NOT NULL,
    object_key VARCHAR(400) NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX artifact_run_id_name ON artifact (run_id, name);

CREATE TABLE event (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    name VARCHAR(255) NOT NULL,
    source VARCHAR(255),
    subject VARCHAR(255),
    data TEXT NOT NULL,
    depth INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    routed_at BIGINT,
    outcome VARCHAR(10),
    reason VARCHAR(300)
);
CREATE INDEX event_workspace_id_created_at_id ON event (workspace_id, created_at, id);
CREATE INDEX event_unrouted ON event (created_at) WHERE (routed_at IS NULL);

CREATE TABLE runtime (
    name VARCHAR(30) NOT NULL PRIMARY KEY,
    version VARCHAR(40) NOT NULL,
    libraries TEXT NOT NULL,
    modules TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

"""


def up(migrator: Any, database: Any) -> None:
    """Create every table of the first release."""
    serial = "INTEGER" if is_sqlite(database) else "BIGSERIAL"
    for statement in _STATEMENTS.format(serial=serial).split(";"):
        if statement.strip():
            database.execute_sql(statement)

