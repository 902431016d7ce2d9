"""Running again what ran before: one run, many by filter, or a dead letter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from millrace import history, runs
from millrace.errors import Conflict, DomainError, Missing, NotFound
from millrace.history import Filter
from millrace.models import DeadLetter, Run, Version
from millrace.models.run import FINAL
from millrace.runs import Order, Submitted
from millrace.services import Services

MOST = 1_000
"""Runs that are replayed at one go."""


def replay(
    services: Services, run: Run, *, same_version: bool, caller_ip: str = "", user_id: int | None = None
) -> Submitted:
    """A new run with the input of one that is over, on its version or on the current one.

    Raises Conflict while the run goes on, and what `runs.submit` raises.
    """
    order = _order(services, run, same_version=same_version, caller_ip=caller_ip)
    return runs.submit(services, replace(order, user_id=user_id))


@dataclass(frozen=True)
class Replays:
    """The new runs (ids), and why it stopped there if it did."""

    started: list[str]
    stopped: str | None = None


def replay_many(
    services: Services, workspace_id: str, wanted: Filter, *, same_version: bool, caller_ip: str = "", limit: int = MOST
) -> Replays:
    """Replay the runs that match and are over, the oldest first, at most `limit`. Replays are not replayed.

    The first that cannot be stops it. Raises what stopped it when nothing was started.
    """
    found = history.oldest(workspace_id, replace(wanted, statuses=wanted.statuses or FINAL), min(limit, MOST))
    started: list[str] = []
    for each in found:
        run = Run.get_or_none(Run.id == each.id)  # a list has no payloads
        if run is None or run.status not in FINAL or run.replay_of is not None:
            continue
        try:
            started.append(replay(services, run, same_version=same_version, caller_ip=caller_ip).run.id)
        except (DomainError, Missing) as error:
            if not started:
                raise
            return Replays(started, f"Run '{run.id}' could not be replayed: {error}")
    return Replays(started)


def redrive(services: Services, letter: DeadLetter, *, caller_ip: str = "") -> Run:
    """A new run for a dead letter, on the current version. Raises Conflict when it was sent again before."""
    run = Run.get_by_id(letter.run_id)

    def because(started: Run) -> None:
        ours = DeadLetter.update(redriven_at=services.clock(), redriven_run_id=started.id).where(
            DeadLetter.id == letter.id, DeadLetter.redriven_at.is_null()
        )
        if not ours.execute():
            raise Conflict(f"Dead letter '{letter.id}' was sent again before.")

    order = _order(services, run, same_version=False, caller_ip=caller_ip)
    return runs.submit(services, order, because).run


@dataclass(frozen=True)
class Redriven:
    """The new runs (ids), and why each of the other dead letters got none."""

    started: list[str]
    refused: list[str]


def redrive_many(services: Services, letters: Sequence[DeadLetter], *, caller_ip: str = "") -> Redriven:
    """A new run for each of these that has not been sent again, in this order; one that cannot be holds up no other.

    Raises what stopped the first when nothing was started.
    """
    started: list[str] = []
    refused: list[DomainError | Missing] = []
    for letter in letters:
        try:
            started.append(redrive(services, letter, caller_ip=caller_ip).id)
        except (DomainError, Missing) as error:
            refused.append(error)
    if refused and not started:
        raise refused[0]
    return Redriven(started, [str(error) for error in refused])


def _order(services: Services, run: Run, *, same_version: bool, caller_ip: str) -> Order:
    if run.status not in FINAL:
        raise Conflict(f"Run '{run.id}' goes on; it can be replayed once it is over.")
    if same_version and not _exists(run.script_id, run.version):
        raise NotFound(f"Version {run.version} of the script is gone.")
    return Order(
        workspace=run.workspace_id, script=run.script_id, payload=json.loads(runs.payload_text(services, run)),
        trigger="manual", caller_ip=caller_ip, version=run.version if same_version else None, replay_of=run.id,
        depth=run.depth,
    )  # fmt: skip


def _exists(script_uuid: str, number: int) -> bool:
    return bool(Version.select().where(Version.script == script_uuid, Version.number == number).exists())
