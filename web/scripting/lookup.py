"""What an address names, found in the caller's workspace or not at all."""

from millrace import runs, scripts
from millrace.models import Run, Script
from web import wire


def script(script_id: str) -> Script:
    """The script of this id. Raises NotFound."""
    return scripts.find(wire.workspace().id, script_id)


def run(script_id: str, run_id: str) -> tuple[Script, Run]:
    """A run and the script that it must belong to. Raises NotFound."""
    owner = script(script_id)
    return owner, runs.find(owner.workspace_id, owner.uuid, run_id)
