"""Taking stock: how many bytes a workspace stores, and which of its objects nobody names any more.

Whoever removes a row first, so that nothing is shown which is missing, and dies before its objects are gone, leaves
objects behind; so does one who stores an object and dies before its row. All of them are found and deleted here.
"""

import itertools
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import peewee

from millrace import limits, logs, metrics
from millrace.models import Artifact, Run, Script, Version, Workspace
from millrace.models.script import DELETED
from millrace.services import Services

PART = 1000  # objects of one step, which is what a store lists in one answer
LATE_MS = 3600 * 1000  # what is younger may belong to a row that is only being written
_FOLDERS = ("payloads", "logs", "results", "artifacts")
_KEY = re.compile(r"(payloads|logs|results|artifacts)/[^/]+/([0-9a-f-]{36})(?=[./])")


@dataclass(frozen=True)
class _Found:
    key: str
    folder: str
    run_id: str


class Stocktaking:
    """What one process remembers of its rounds. `monotonic` gives seconds that no one can set."""

    def __init__(self, services: Services, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._monotonic = monotonic
        self._taken: dict[str, float] = {}  # workspace, and when its stock was last begun to be taken
        self._at_hand: Iterator[None] | None = None

    def step(self) -> bool:
        """Look at the next `PART` objects. Returns whether there is more to look at now. Raises Unavailable."""
        if self._at_hand is None:
            self._at_hand = self._begin()
        if self._at_hand is None:
            return False
        at_hand, self._at_hand = self._at_hand, None  # one that fails is begun anew, when its turn comes again
        if next(at_hand, _END) is not _END:
            self._at_hand = at_hand
        return True

    def _begin(self) -> Iterator[None] | None:
        """The workspace whose stock was taken longest ago, unless that is less than `limits.MEASURE_EVERY_S`."""
        now = self._monotonic()
        known = [each.id for each in Workspace.select(Workspace.id).where(Workspace.status != DELETED)] + [_SOURCES]
        self._taken = {each: self._taken[each] for each in known if each in self._taken}
        due = [each for each in known if now - self._taken.get(each, float("-inf")) >= limits.MEASURE_EVERY_S]
        if not due:
            return None
        first = min(due, key=lambda each: self._taken.get(each, float("-inf")))
        self._taken[first] = now
        return collect_sources(self._services) if first == _SOURCES else take(self._services, first)


_END = object()
_SOURCES = ""  # stands for the sources of all workspaces among the ids of these


def take(services: Services, workspace_id: str) -> Iterator[None]:
    """Measure a workspace, in steps; the sum is written at the end. Deletes what no row names on the way."""
    total = 0
    sized = itertools.chain.from_iterable(services.objects.sizes(f"{each}/{workspace_id}/") for each in _FOLDERS)
    while some := list(itertools.islice(sized, PART)):
        orphans = unnamed(workspace_id, [key for key, _ in some], services.clock() - LATE_MS)
        services.objects.delete(orphans)
        metrics.objects_collected().inc(len(orphans))
        total += sum(size for key, size in some if key not in orphans)
        yield
    sources = Version.select(peewee.fn.SUM(Version.size)).join(Script).where(Script.workspace == workspace_id)
    total += int(sources.scalar() or 0)
    Workspace.update(stored_bytes=total, stored_at=services.clock()).where(Workspace.id == workspace_id).execute()


def collect_sources(services: Services) -> Iterator[None]:
    """Delete, in steps, the sources of scripts that have no row: whoever stored one died before that was written."""
    before, listed = services.clock() - LATE_MS, services.objects.sizes("scripts/")
    while some := [key for key, _ in itertools.islice(listed, PART)]:
        owners = {key: key.split("/")[1] for key in some}
        old = {owner for owner in owners.values() if _made_at(owner) < before}
        known = {script.uuid for script in Script.select(Script.uuid).where(Script.uuid.in_(old))}
        orphans = [key for key, owner in owners.items() if owner in old - known]
        services.objects.delete(orphans)
        metrics.objects_collected().inc(len(orphans))
        yield


def unnamed(workspace_id: str, keys: Iterable[str], before: int) -> set[str]:
    """Which of these objects no row names, of runs that were accepted and over before this moment."""
    found = [
        _Found(key, match[1], match[2]) for key in keys
        if (match := _KEY.match(key)) and _made_at(match[2]) < before
    ]  # fmt: skip
    if not found:
        return set()
    rows = {row.id: row for row in Run.select(*_LOOKED_AT).where(Run.id.in_({each.run_id for each in found}))}
    stray = [each for each in found if _may_be_stray(each, rows.get(each.run_id), before)]
    named = _named_artifacts(stray) | _named_payloads(workspace_id, stray)
    return {each.key for each in stray} - named


_LOOKED_AT = (
    Run.id, Run.completed_at, Run.payload_key, Run.result_key, Run.log_key, Run.log_chunks, Run.tries,
)  # fmt: skip


def _may_be_stray(found: _Found, run: Run | None, before: int) -> bool:
    if run is None:
        return True
    if run.completed_at is None or run.completed_at >= before:
        return False
    if found.folder == "logs":
        # Chunks that are still to be joined, and logs of earlier tries, are named by nobody.
        kept = run.log_chunks or (run.tries and run.log_key != logs.REMOVED) or run.log_key == found.key
        return not kept
    return found.key not in (run.payload_key, run.result_key)


def _named_artifacts(stray: Sequence[_Found]) -> set[str]:
    files = [each for each in stray if each.folder == "artifacts"]
    if not files:
        return set()
    rows = Artifact.select(Artifact.object_key).where(Artifact.run.in_({each.run_id for each in files}))
    return {row.object_key for row in rows}


def _named_payloads(workspace_id: str, stray: Sequence[_Found]) -> set[str]:
    """A run that was debounced has the payload of a later order, whose own id has no row."""
    keys = [each.key for each in stray if each.folder == "payloads"]
    if not keys:
        return set()
    rows = Run.select(Run.payload_key).where(
        Run.workspace == workspace_id, Run.payload_key.in_(keys)
    )
    return {str(row.payload_key) for row in rows}


def _made_at(run_id: str) -> int:
    """The moment in a run's id, or the far future if it is no such id: nobody knows whose that would be."""
    try:
        made = uuid.UUID(run_id)
    except ValueError:
        return 2**62
    return made.int >> 80 if made.version == 7 else 2**62
