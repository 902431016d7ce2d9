"""Retries, concurrency keys, expiry, dead letters, audit and schedules' policies. Before deployment."""

from typing import Any

from millrace.database import is_sqlite

_STATEMENTS = """
ALTER TABLE workspace ADD COLUMN limits TEXT;
ALTER TABLE workspace ADD COLUMN stored_bytes BIGINT;
ALTER TABLE workspace ADD COLUMN stored_at BIGINT;

ALTER TABLE script ADD COLUMN retry TEXT;
ALTER TABLE script ADD COLUMN concurrency TEXT;

ALTER TABLE schedule ADD COLUMN overlap VARCHAR(10) NOT NULL DEFAULT 'allow';
ALTER TABLE schedule ADD COLUMN catch_up VARCHAR(10) NOT NULL DEFAULT 'last';
ALTER TABLE schedule ADD COLUMN catch_up_minutes INTEGER NOT NULL DEFAULT 1440;
ALTER TABLE schedule ADD COLUMN paused_at BIGINT;

ALTER TABLE run ADD COLUMN order_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN expires_at BIGINT;
ALTER TABLE run ADD COLUMN concurrency_key VARCHAR(64);
ALTER TABLE run ADD COLUMN debounce_key VARCHAR(255);
ALTER TABLE run ADD COLUMN replay_of VARCHAR(36);
UPDATE run SET order_at = available_at WHERE completed_at IS NULL;
CREATE INDEX run_waiting_order ON run (script_id, order_at, id) WHERE sent_at IS NULL AND completed_at IS NULL;
CREATE INDEX run_workspace_holding ON run (workspace_id, sent_at) WHERE sent_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX run_expiring ON run (expires_at)
    WHERE expires_at IS NOT NULL AND started_at IS NULL AND completed_at IS NULL;
CREATE UNIQUE INDEX run_debounced ON run (script_id, debounce_key)
    WHERE debounce_key IS NOT NULL AND sent_at IS NULL AND completed_at IS NULL;
CREATE INDEX run_completed_at ON run (workspace_id, completed_at) WHERE completed_at IS NOT NULL;

CREATE TABLE attempt (
    id {serial} PRIMARY KEY,
    run_id VARCHAR(36) NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    status VARCHAR(12) NOT NULL,
    worker VARCHAR(80),
    started_at BIGINT,
    completed_at BIGINT NOT NULL,
    duration_ms INTEGER,
    error TEXT,
    error_code VARCHAR(40),
    error_stack TEXT,
    log_key VARCHAR(200),
    usage TEXT
);
CREATE UNIQUE INDEX attempt_run_id_number ON attempt (run_id, number);

CREATE TABLE dead_letter (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    run_id VARCHAR(36) NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    reason VARCHAR(300) NOT NULL,
    created_at BIGINT NOT NULL,
    redriven_at BIGINT,
    redriven_run_id VARCHAR(36)
);
CREATE INDEX dead_letter_workspace_id_created_at_id ON dead_letter (workspace_id, created_at, id);
CREATE INDEX dead_letter_script_id ON dead_letter (script_id);
CREATE UNIQUE INDEX dead_letter_run_id ON dead_letter (run_id);

CREATE TABLE audit (
    id {serial} PRIMARY KEY,
    workspace_id VARCHAR(64) REFERENCES workspace (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    actor VARCHAR(254) NOT NULL,
    action VARCHAR(60) NOT NULL,
    subject VARCHAR(300) NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX audit_workspace_id_at_id ON audit (workspace_id, at, id)
"""


def up(migrator: Any, database: Any) -> None:
    """Add columns and tables. Processes of the release before go on working with them."""
    serial = "INTEGER" if is_sqlite(database) else "BIGSERIAL"
    for statement in _STATEMENTS.format(serial=serial).split(";"):
        if statement.strip():
            database.execute_sql(statement)
