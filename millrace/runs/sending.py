"""Giving free places to those who wait, and sending them on their way."""

import itertools
from collections.abc import Sequence
from contextlib import suppress

from millrace import admission
from millrace.database import UNREACHABLE, is_contended, transaction
from millrace.errors import NotFound
from millrace.models import Script
from millrace.runs import locks
from millrace.services import Services


def admit_next(script: Script, now: int, batch_id: str | None = None) -> list[tuple[str, int]]:
    """Give the places that an end leaves to the next of its batch and its script, in the transaction of that end.

    `pass_on` follows. A place of a workspace with a limit is for whichever of its scripts has waited longest, and that
    is found then.
    """
    if batch_id is not None:
        admission.feed(batch_id, now)
    bounds = locks.bounds(script, script.workspace)
    return [] if bounds.workspace_runs is not None else admission.admit_waiting(script, now, bounds)


def pass_on(services: Services, script: Script, admitted: Sequence[tuple[str, int]]) -> None:
    """Send what was admitted."""
    send(services, script.workspace_id, admitted)
    if locks.bounds(script, script.workspace).workspace_runs is not None:
        release_workspace(services, script.workspace_id)


def send(services: Services, workspace_id: str, admitted: Sequence[tuple[str, int]]) -> int:
    """Send until the queue does not answer, which may take seconds each time: the sweeper sends the rest.

    Returns how many were sent.
    """
    return sum(1 for _ in itertools.takewhile(lambda each: services.queue.send(*each, workspace_id), admitted))


def release_due(services: Services, limit: int = 200) -> int:
    """Send runs that wait and may start by now: delayed ones that became due, or places that came free unseen.

    Stops when the queue does not answer. Returns how many were sent.
    """
    now = services.clock()
    for script_uuid in admission.scripts_set_back(now, limit):
        with suppress(NotFound), transaction():  # it may have been deleted meanwhile
            admission.realign(locks.lock_script(script_uuid), now)
    return _release(services, admission.scripts_with_place(now, limit), now)


def release_workspace(services: Services, workspace_id: str, limit: int = 50) -> int:
    """As `release_due`, for one workspace: the script whose first run has waited longest comes first."""
    now = services.clock()
    return _release(services, admission.scripts_waiting_in(workspace_id, now, limit), now)


def _release(services: Services, script_uuids: Sequence[str], now: int) -> int:
    sent = 0
    for script_uuid in script_uuids:
        try:
            with transaction():
                script = locks.lock_script(script_uuid)
                bounds = locks.bounds(script, script.workspace)
                locks.lock_workspace(script.workspace_id, bounds)
                admitted = admission.admit_waiting(script, now, bounds)
        except NotFound:
            continue  # deleted meanwhile
        except UNREACHABLE as error:
            if not is_contended(error):
                raise
            continue  # whoever holds the script may be admitting them
        handed_over = send(services, script.workspace_id, admitted)
        sent += handed_over
        if handed_over < len(admitted):
            break
    return sent
