"""What an address names, found in the workspace of whoever looks, or not at all."""

import contextlib

from millrace import runs, scripts
from millrace.errors import NotFound
from millrace.models import Run, Script
from web import wire


def script(script_id: str) -> Script:
    """The script with this uuid, or this id. Raises NotFound."""
    workspace = wire.workspace().id
    with contextlib.suppress(NotFound):
        return scripts.find_by_uuid(workspace, script_id)
    return scripts.find(workspace, script_id)


def run(script_id: str, run_id: str) -> tuple[Script, Run]:
    """An execution and the script that it must belong to. Raises NotFound."""
    owner = script(script_id)
    return owner, runs.find(owner.workspace_id, owner.uuid, run_id)
