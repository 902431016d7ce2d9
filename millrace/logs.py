"""Logs of runs in the object store: chunks while a run goes on, one object once it is over.

The text is for people: `2026-11-22T13:05:09.123Z INFO  the message`, one record per line; the further lines of a
message are indented by four blanks, so that no message can pass for another record.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from millrace.database import transaction
from millrace.models import Run
from millrace.models.run import FINAL, WORKER_LOST
from millrace.objects import ObjectStore
from millrace.services import Services

CONTENT_TYPE = "text/plain; charset=utf-8"
ATTEMPT_STRIDE = 1_000_000  # chunk numbers of attempt n begin at (n - 1) times this
_HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z ]{6}) (.*)", re.DOTALL)
_INDENT = "    "


@dataclass(frozen=True)
class Record:
    """One thing that was logged. `seq` counts from 1 within the run."""

    seq: int
    time: str  # ISO 8601, UTC, milliseconds
    level: str
    text: str


def timestamp(at_ms: int) -> str:
    """Milliseconds since 1970 as ISO 8601."""
    second, millisecond = divmod(at_ms, 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


@functools.lru_cache(maxsize=64)  # a loud run logs thousands of lines in one second
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def format_record(at_ms: int, level: str, text: str) -> str:
    """One record as text, with its line end. Any line break in the message counts as one."""
    lines = text.replace("\x00", "\\0").splitlines() or [""]
    return f"{timestamp(at_ms)} {level:<6} " + f"\n{_INDENT}".join(lines) + "\n"


def parse(chunks: Iterable[bytes]) -> Iterator[Record]:
    """The records of a log text that comes in pieces of any size."""
    seq = 0
    head: re.Match[str] | None = None
    rest: list[str] = []
    for line in _lines(chunks):
        found = None if line.startswith(_INDENT) else _HEAD.match(line)
        if found is None:
            rest.append(line.removeprefix(_INDENT))
            continue
        if head is not None:
            seq += 1
            yield _record(seq, head, rest)
        head, rest = found, []
    if head is not None:
        yield _record(seq + 1, head, rest)


def _record(seq: int, head: re.Match[str], rest: list[str]) -> Record:
    return Record(seq, head[1], head[2].strip(), "\n".join([head[3], *rest]))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    pending = b""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    if pending:
        yield pending.decode("utf-8", "replace")


def key(workspace_id: str, run_id: str) -> str:
    """Where a finished run's log is."""
    return f"logs/{workspace_id}/{run_id}.log"


def chunk_key(workspace_id: str, run_id: str, number: int) -> str:
    """Where chunk `number` is while the run goes on."""
    return f"{_chunks(workspace_id, run_id)}{number:08d}.log"


def _chunks(workspace_id: str, run_id: str) -> str:
    return f"logs/{workspace_id}/{run_id}/"


def topic(run_id: str) -> str:
    """The topic on the bus that hints at each new chunk."""
    return f"log:{run_id}"


def put_chunk(services: Services, workspace_id: str, run_id: str, number: int, text: bytes) -> None:
    """Store one chunk and tell live tails."""
    services.objects.put(chunk_key(workspace_id, run_id, number), text, content_type=CONTENT_TYPE)
    services.bus.hint(topic(run_id), str(number))


def put_whole(services: Services, workspace_id: str, run_id: str, text: bytes) -> str:
    """Store a log that needed no chunk. Returns its key."""
    whole = key(workspace_id, run_id)
    services.objects.put(whole, text, content_type=CONTENT_TYPE)
    return whole


def join_chunks(objects: ObjectStore, workspace_id: str, run_id: str, *, end_mark: bytes = b"") -> str | None:
    """Make one object of the chunks, in order, with gaps marked; delete them. None if there are none.

    Safe to repeat and to do twice at once: the chunks go only after the whole is stored, and a whole that is
    stored is never replaced by what an interrupted deletion, or another process, left of its chunks.
    """
    keys = objects.list(_chunks(workspace_id, run_id))
    if not keys:
        return None
    whole = key(workspace_id, run_id)
    if not objects.exists(whole):
        try:
            objects.put(whole, _joined(objects, keys, end_mark), content_type=CONTENT_TYPE)
        except _Outrun:
            return whole
    objects.delete(keys)
    return whole


class _Outrun(Exception):
    """A chunk went while it was being joined: somebody else has stored the whole."""


def _joined(objects: ObjectStore, keys: Sequence[str], end_mark: bytes) -> Iterator[bytes]:
    expected: int | None = None
    for each in keys:
        number = _number(each)
        if expected is not None and number != expected and number % ATTEMPT_STRIDE != 0:
            yield b"(some lines are missing here: they were lost with the worker)\n"
        expected = number + 1
        chunk = objects.get(each)
        if chunk is None:
            raise _Outrun
        yield chunk
    yield end_mark


def locate(services: Services, run: Run) -> str | None:
    """The key of a run's whole log. Joins what a timeout or a crash left as chunks; None if there is no log."""
    if run.log_key is not None or run.status not in FINAL:
        return run.log_key
    whole = join_chunks(services.objects, run.workspace_id, run.id, end_mark=_end_mark(run))
    if whole is None and services.objects.exists(key(run.workspace_id, run.id)):
        whole = key(run.workspace_id, run.id)  # another process was faster
    if whole is not None or run.log_chunks:
        with transaction():
            Run.update(log_key=whole, log_chunks=0).where(Run.id == run.id, Run.log_key.is_null()).execute()
    return whole


def _end_mark(run: Run) -> bytes:
    if run.error_code == WORKER_LOST:
        return b"(the worker was lost here: what the script wrote after this is missing)\n"
    lost = (run.usage or {}).get("log_lost_bytes", 0)
    return f"({lost} bytes are missing here: the object store did not take them)\n".encode() if lost else b""


def tail(services: Services, run_id: str, patience_s: float) -> Iterator[Record | None]:
    """A run's records from its start, as they come, until it is over; None after `patience_s` without any.

    The None lets a server write a heartbeat, and so learn that its client has gone.
    """
    shown, last_chunk = 0, -1
    with services.bus.listen(topic(run_id), f"run:{run_id}") as hints:
        while True:
            with services.database.connection_context():
                run = Run.get_or_none(Run.id == run_id)
            if run is None:
                return  # deleted with its script
            if run.status in FINAL:
                yield from _rest(services, run, shown)
                return
            for chunk in services.objects.list(_chunks(run.workspace_id, run_id)):
                if _number(chunk) <= last_chunk:
                    continue
                text = services.objects.get(chunk)
                if text is None:
                    break  # they are being joined: the rest is in the whole
                # A chunk holds whole records, so each is read once and parsed by itself.
                last_chunk = _number(chunk)
                for record in parse([text]):
                    shown += 1
                    yield replace(record, seq=shown)
            if hints.get(timeout=patience_s) is None:
                yield None


def _rest(services: Services, run: Run, shown: int) -> Iterator[Record]:
    whole = locate(services, run)
    stored = services.objects.stream(whole) if whole is not None else None
    return (record for record in parse(stored or ()) if record.seq > shown)


def _number(chunk: str) -> int:
    return int(chunk.rsplit("/", 1)[1].removesuffix(".log"))
