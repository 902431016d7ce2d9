"""People and their roles, types and statuses of scripts, data sources, usage by the hour. Before deployment."""

from typing import Any

from millrace.database import is_sqlite

_STATEMENTS = """
CREATE TABLE users (
    id {serial} PRIMARY KEY,
    email VARCHAR(254) NOT NULL,
    name VARCHAR(100),
    password_hash VARCHAR(200),
    role VARCHAR(30),
    language VARCHAR(8),
    theme VARCHAR(10),
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (email);
INSERT INTO users (email, password_hash, created_at)
    SELECT lower(email), min(password_hash), min(created_at) FROM member GROUP BY lower(email);

CREATE TABLE member_before AS SELECT * FROM member;
DROP TABLE member;
CREATE TABLE member (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role VARCHAR(30) NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO member (id, workspace_id, user_id, role, created_at)
    SELECT before.id, before.workspace_id, users.id,
        CASE before.role WHEN 'owner' THEN 'org_admin' ELSE before.role END, before.created_at
    FROM member_before AS before JOIN users ON users.email = lower(before.email);
DROP TABLE member_before;
CREATE UNIQUE INDEX member_workspace_id_user_id ON member (workspace_id, user_id);
CREATE INDEX member_user_id ON member (user_id);

CREATE TABLE role (
    id {serial} PRIMARY KEY,
    workspace_id VARCHAR(64) REFERENCES workspace (id) ON DELETE CASCADE,
    name VARCHAR(30) NOT NULL,
    title VARCHAR(60) NOT NULL,
    permissions TEXT NOT NULL
);
CREATE UNIQUE INDEX role_workspace_id_name ON role (workspace_id, name);
INSERT INTO role (workspace_id, name, title, permissions) VALUES
    (NULL, 'superadmin', 'Superadmin',
     '["scripts.read","scripts.create","scripts.update","scripts.delete","scripts.execute",'
     || '"workspace.manage","platform.manage"]'),
    (NULL, 'org_admin', 'Org Admin',
     '["scripts.read","scripts.create","scripts.update","scripts.delete","scripts.execute","workspace.manage"]'),
    (NULL, 'developer', 'Developer', '["scripts.read","scripts.create","scripts.execute"]'),
    (NULL, 'viewer', 'Viewer', '["scripts.read"]');

CREATE TABLE session (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    workspace_id VARCHAR(64) REFERENCES workspace (id) ON DELETE CASCADE,
    agent VARCHAR(200) NOT NULL,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX session_user_id ON session (user_id);
CREATE INDEX session_workspace_id ON session (workspace_id);
CREATE INDEX session_expires_at ON session (expires_at);

CREATE TABLE invitation (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    workspace_id VARCHAR(64) REFERENCES workspace (id) ON DELETE CASCADE,
    role VARCHAR(30),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX invitation_workspace_id_user_id ON invitation (workspace_id, user_id);
CREATE INDEX invitation_user_id ON invitation (user_id);
CREATE INDEX invitation_expires_at ON invitation (expires_at);

ALTER TABLE script ADD COLUMN type VARCHAR(10) NOT NULL DEFAULT 'oneoff';
ALTER TABLE script ADD COLUMN unique_name VARCHAR(300);
ALTER TABLE script ADD COLUMN limits TEXT;
ALTER TABLE script ADD COLUMN created_by INTEGER;
UPDATE script SET status = 'paused' WHERE status = 'inactive';
UPDATE script SET type = CASE
    WHEN EXISTS (SELECT 1 FROM schedule WHERE schedule.script_id = script.uuid) THEN 'scheduled'
    WHEN EXISTS (SELECT 1 FROM hook WHERE hook.script_id = script.uuid) THEN 'http'
    WHEN EXISTS (SELECT 1 FROM subscription WHERE subscription.script_id = script.uuid) THEN 'event'
    ELSE 'oneoff' END;
CREATE UNIQUE INDEX script_workspace_id_unique_name ON script (workspace_id, unique_name);

ALTER TABLE version ADD COLUMN created_by INTEGER;
ALTER TABLE version ADD COLUMN note VARCHAR(500);
ALTER TABLE run ADD COLUMN user_id INTEGER;

CREATE TABLE data_source (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    name VARCHAR(63) NOT NULL,
    kind VARCHAR(12) NOT NULL,
    place TEXT NOT NULL,
    sealed TEXT,
    tenant_column VARCHAR(63) NOT NULL,
    tenant_setting VARCHAR(63),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX data_source_workspace_id_name ON data_source (workspace_id, name);

CREATE TABLE usage_hour (
    id {serial} PRIMARY KEY,
    workspace_id VARCHAR(64) NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
    hour BIGINT NOT NULL,
    runs INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    worker_ms BIGINT NOT NULL,
    durations TEXT NOT NULL
);
CREATE UNIQUE INDEX usage_hour_workspace_id_hour ON usage_hour (workspace_id, hour);
CREATE INDEX usage_hour_hour ON usage_hour (hour)
"""


def up(migrator: Any, database: Any) -> None:
    """Add what the console and the SDK need. No process of the release before reads what is dropped."""
    serial = "INTEGER" if is_sqlite(database) else "SERIAL"
    for statement in _STATEMENTS.format(serial=serial).split(";"):
        if statement.strip():
            database.execute_sql(statement)
