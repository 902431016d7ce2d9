"""Logs of runs in the object store: chunks while a run goes on, one object once it is over.

The text is for people: `2026-11-22T13:05:09.123Z INFO  the message`, one record per line; the further lines of a
message are indented by four blanks, so that no message can pass for another record.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import peewee

from millrace.database import transaction
from millrace.models import Attempt, Run
from millrace.models.run import FINAL, WORKER_LOST
from millrace.objects import ObjectStore
from millrace.services import Services

CONTENT_TYPE = "text/plain; charset=utf-8"
ATTEMPT_STRIDE = 1_000_000  # chunk numbers of attempt n begin at (n - 1) times this
_HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z ]{6}) (.*)", re.DOTALL)
_INDENT = "    "
REMOVED = ""  # the key of a log that was removed because of its age, so that nobody makes it anew
_WHOLE = "try-"  # what the whole log of a later try begins with, beside the chunks


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


@dataclass(frozen=True)
class Part:
    """The log of one try: a run that its script's policy has tried again has one for each.

    Attempts that did not get as far as the handler belong to the try after them: those from `after` up to `last`.
    """

    tries: int = 0  # before this one
    after: int = 0  # the attempt with which the try before ended
    last: int = 99


ONLY = Part()


def key(workspace_id: str, run_id: str, part: Part = ONLY) -> str:
    """Where a log is that is complete."""
    if part.tries == 0:
        return f"logs/{workspace_id}/{run_id}.log"
    return f"{_chunks(workspace_id, run_id)}{_WHOLE}{part.tries + 1}.log"


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


def put_whole(services: Services, workspace_id: str, run_id: str, text: bytes, part: Part = ONLY) -> str:
    """Store a log that needed no chunk. Returns its key."""
    whole = key(workspace_id, run_id, part)
    services.objects.put(whole, text, content_type=CONTENT_TYPE)
    return whole


def join_chunks(
    objects: ObjectStore, workspace_id: str, run_id: str, part: Part = ONLY, *, end_mark: bytes = b""
) -> str | None:
    """Make one object of a try's chunks, in order, with gaps marked; delete them. None if there are none.

    Safe to repeat and to do twice at once: the chunks go only after the whole is stored, and a whole that is
    stored is never replaced by what an interrupted deletion, or another process, left of its chunks.
    """
    keys = [each for each in _list_chunks(objects, workspace_id, run_id) if part.after < _attempt(each) <= part.last]
    if not keys:
        return None
    whole = key(workspace_id, run_id, part)
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
        return run.log_key or None
    whole = _join_or_find(services, run, _last_part(run), _end_mark(run))
    if whole is not None or run.log_chunks:
        with transaction():
            Run.update(log_key=whole, log_chunks=0).where(Run.id == run.id, Run.log_key.is_null()).execute()
    return whole


def locate_earlier(services: Services, run: Run) -> list[str | None]:
    """The same for each of its attempts that was not the last, in order."""
    keys: list[str | None] = []
    after = 0
    for earlier in attempts(run):
        if earlier.log_key is None:
            mark = _LOST_MARK if earlier.error_code == WORKER_LOST else b""
            earlier.log_key = _join_or_find(services, run, Part(len(keys), after, earlier.number), mark)
            if earlier.log_key is not None:
                Attempt.update(log_key=earlier.log_key).where(
                    Attempt.id == earlier.id, Attempt.log_key.is_null()
                ).execute()
        keys.append(earlier.log_key or None)
        after = earlier.number
    return keys


def _last_part(run: Run) -> Part:
    return part_of(run.id, run.tries)


def part_of(run_id: str, tries: int) -> Part:
    """The part that a try writes before which the handler was entered so often."""
    if tries == 0:
        return ONLY
    ended = Attempt.select(peewee.fn.MAX(Attempt.number)).where(Attempt.run == run_id).scalar()
    return Part(tries, int(ended or 0))


def _join_or_find(services: Services, run: Run, part: Part, end_mark: bytes) -> str | None:
    whole = join_chunks(services.objects, run.workspace_id, run.id, part, end_mark=end_mark)
    if whole is None and services.objects.exists(key(run.workspace_id, run.id, part)):
        whole = key(run.workspace_id, run.id, part)  # another process was faster
    if whole is None and end_mark:
        whole = put_whole(services, run.workspace_id, run.id, end_mark, part)
    return whole


_LOST_MARK = b"(the worker was lost here: what the script wrote after this is missing)\n"


def _end_mark(run: Run) -> bytes:
    if run.error_code == WORKER_LOST:
        return _LOST_MARK
    lost = (run.usage or {}).get("log_lost_bytes", 0)
    return f"({lost} bytes are missing here: the object store did not take them)\n".encode() if lost else b""


def tail(services: Services, run_id: str, patience_s: float) -> Iterator[Record | None]:
    """A run's records from its start, as they come, until it is over; None after `patience_s` without any.

    The None lets a server write a heartbeat, and so learn that its client has gone.
    """
    shown, last_chunk, tries = 0, -1, 0
    with services.bus.listen(topic(run_id), f"run:{run_id}") as hints:
        while True:
            with services.database.connection_context():
                run = Run.get_or_none(Run.id == run_id)
            if run is None:
                return  # deleted with its script
            if run.status in FINAL:
                yield from _rest(services, run, shown)
                return
            if run.tries > tries:
                # Tries that ended: each has one object now, whatever was shown of its chunks.
                for record in _records(services, locate_earlier(services, run)):
                    if record.seq > shown:
                        yield record
                        shown = record.seq
                tries = run.tries
            for chunk in _list_chunks(services.objects, run.workspace_id, run_id):
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
    keys = [*locate_earlier(services, run), locate(services, run)]
    return (record for record in _records(services, keys) if record.seq > shown)


def _records(services: Services, keys: Sequence[str | None]) -> Iterator[Record]:
    """Of several logs, one after the other, numbered through."""
    seq = 0
    for each in keys:
        stored = services.objects.stream(each) if each is not None else None
        for record in parse(stored or ()):
            seq += 1
            yield replace(record, seq=seq)


def attempts(run: Run) -> list[Attempt]:
    """Those of its attempts that were not its last, in order; most runs have none."""
    return list(Attempt.select().where(Attempt.run == run.id).order_by(Attempt.number)) if run.tries else []


def _list_chunks(objects: ObjectStore, workspace_id: str, run_id: str) -> list[str]:
    folder = _chunks(workspace_id, run_id)
    return [each for each in objects.list(folder) if not each.removeprefix(folder).startswith(_WHOLE)]


def _attempt(chunk: str) -> int:
    return _number(chunk) // ATTEMPT_STRIDE + 1


def _number(chunk: str) -> int:
    return int(chunk.rsplit("/", 1)[1].removesuffix(".log"))
