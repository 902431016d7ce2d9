"""Logs of the platform as JSON lines that carry workspace, script and run; and the names of its metrics."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

# A record's `extra` keys that belong into the line.
_EXTRA = ("workspace", "script", "run", "event", "attempt", "worker")


def set_up_logging(process: str, level: str) -> None:
    """Write every record of this process to standard error as one JSON object per line."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ExtraAdder(allow=_EXTRA),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                lambda _logger, _method, line: {"process": process, **line},
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


@contextmanager
def context(**values: str) -> Iterator[None]:
    """Put these values (workspace, script, run, ...) on every line that is logged inside."""
    with structlog.contextvars.bound_contextvars(**values):
        yield
