"""Scripts: create, change, find, read; their types, statuses, versions, diff and rollback."""

from millrace.scripts.changing import change_status, rollback, update
from millrace.scripts.creating import create
from millrace.scripts.names import SLUG, slug_for
from millrace.scripts.reading import (
    MAX_DIFF_LINES,
    Filter,
    diff,
    find,
    find_by_uuid,
    last_runs,
    not_found,
    page,
    source,
    version,
    versions,
)
from millrace.scripts.statuses import ACTIVE, ARCHIVED, DISABLED, DRAFT, NEXT, PAUSED, STATUS
from millrace.scripts.types import EMBEDDED, EVENT, HTTP, ONEOFF, SCHEDULED, TYPES
from millrace.scripts.wishes import (
    ISOLATION,
    MAX_CONCURRENT_RUNS,
    MAX_NOTE,
    MEMORY_MB,
    TIMEOUT_SECONDS,
    Change,
    NewScript,
)

__all__ = [
    "ACTIVE", "ARCHIVED", "DISABLED", "DRAFT", "EMBEDDED", "EVENT", "HTTP", "ISOLATION", "MAX_CONCURRENT_RUNS",
    "MAX_DIFF_LINES", "MAX_NOTE", "MEMORY_MB", "NEXT", "ONEOFF", "PAUSED", "SCHEDULED", "SLUG", "STATUS",
    "TIMEOUT_SECONDS", "TYPES", "Change", "Filter", "NewScript", "change_status", "create", "diff", "find",
    "find_by_uuid", "last_runs", "not_found", "page", "rollback", "slug_for", "source", "update", "version", "versions",
]  # fmt: skip
