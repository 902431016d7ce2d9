"""Batches, and callbacks when a run is over. Before deployment."""

from typing import Any

_STATEMENTS = """
CREATE TABLE batch (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    total INTEGER NOT NULL,
    concurrency INTEGER,
    created_at BIGINT NOT NULL,
    order_at BIGINT NOT NULL,
    cancelled_at BIGINT
);
CREATE INDEX batch_script_id_created_at_id ON batch (script_id, created_at, id);
CREATE INDEX batch_workspace_id_created_at_id ON batch (workspace_id, created_at, id);

ALTER TABLE run ADD COLUMN batch_id VARCHAR(36);
ALTER TABLE run ADD COLUMN batch_index INTEGER;
ALTER TABLE run ADD COLUMN callback_url VARCHAR(2000);
CREATE UNIQUE INDEX run_batch_item ON run (batch_id, batch_index) WHERE batch_id IS NOT NULL;
CREATE INDEX run_batch_open ON run (batch_id, available_at, batch_index)
    WHERE batch_id IS NOT NULL AND completed_at IS NULL;
CREATE INDEX run_batch_status ON run (batch_id, status) WHERE batch_id IS NOT NULL;

ALTER TABLE script ADD COLUMN callback_url VARCHAR(2000);
ALTER TABLE script ADD COLUMN callback_secret TEXT;

UPDATE attempt SET log_key = '' WHERE log_key IS NULL AND run_id IN
    (SELECT id FROM run WHERE completed_at IS NOT NULL AND log_key IS NULL AND log_chunks = 0);
CREATE INDEX attempt_lost_log ON attempt (id) WHERE log_key IS NULL AND error_code = 'WORKER_LOST';

CREATE TABLE callback (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    script_id VARCHAR(36) NOT NULL REFERENCES script (uuid) ON DELETE CASCADE,
    run_id VARCHAR(36) NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    url VARCHAR(2000) NOT NULL,
    status VARCHAR(10) NOT NULL,
    deliveries TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    next_at BIGINT,
    leased_until BIGINT
);
CREATE UNIQUE INDEX callback_run_id ON callback (run_id);
CREATE INDEX callback_workspace_id ON callback (workspace_id);
CREATE INDEX callback_script_id ON callback (script_id);
CREATE INDEX callback_due ON callback (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX callback_workspace_due ON callback (workspace_id, next_at, id) WHERE next_at IS NOT NULL
"""


def up(migrator: Any, database: Any) -> None:
    """Add columns and tables. Processes of the release before go on working with them."""
    for statement in _STATEMENTS.split(";"):
        if statement.strip():
            database.execute_sql(statement)
