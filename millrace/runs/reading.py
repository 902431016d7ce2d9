"""Reading a run, and waiting for its end."""

import re
import time

from millrace.compiled import Row, place
from millrace.errors import Missing, NotFound
from millrace.models import Run
from millrace.models.run import FINAL
from millrace.services import Services

FIRST_LOOK_S = 0.02  # after which a run that is awaited is looked at, should its hint be lost


_ID = re.compile(r"[0-9a-f-]{36}")


def payload_text(services: Services, run: Run) -> str:
    """The input as JSON text, from the row or from the object store."""
    if run.payload_key is None:
        return run.payload or "null"
    stored = services.objects.get(run.payload_key)
    if stored is None:
        raise Missing(f"The payload of run '{run.id}' is missing in the object store.")
    return stored.decode()


def find(workspace_id: str, script_uuid: str, run_id: str) -> Run:
    """A run of this script in this workspace; anything else is NotFound, whoever owns it."""
    run = None
    if _ID.fullmatch(run_id):  # nothing else can be one, and PostgreSQL refuses to look for a NUL
        run = Run.get_or_none(Run.id == run_id, Run.script == script_uuid, Run.workspace == workspace_id)
    if run is None:
        raise NotFound(f"There is no run '{run_id}' of this script.")
    return run


def result_text(services: Services, run: Run) -> str | None:
    """The result as JSON text, from the row or from the object store; None if there is none."""
    if run.result_key is None:
        return run.result
    stored = services.objects.get(run.result_key)
    return None if stored is None else stored.decode()


_BY_ID = Row(Run, lambda: Run.id == place("id"))


def await_end(services: Services, run_id: str, timeout_s: float) -> Run:
    """The run once it is over, or as it stands after `timeout_s` seconds. Holds no database connection meanwhile.

    Raises NotFound when the run is deleted meanwhile, with its script.
    """
    deadline = time.monotonic() + timeout_s
    with services.bus.listen(f"run:{run_id}") as listener:
        # Most runs are over within milliseconds, and a read that finds them running would only slow them down.
        with services.database.connection_context():
            pass  # gives back the connection that the caller's queries opened
        listener.get(timeout=min(FIRST_LOOK_S, timeout_s))
        while True:
            with services.database.connection_context():
                run = _BY_ID.get(id=run_id)
            if run is None:
                raise NotFound(f"Run '{run_id}' was deleted with its script.")
            left = deadline - time.monotonic()
            if run.status in FINAL or left <= 0:
                return run
            # A hint may be lost with Redis, so the row is read again every second in any case.
            listener.get(timeout=min(1.0, left))
