"""What a script or a workspace has cached goes with it, and with nothing else."""

import pytest

from millrace import removal
from millrace.cache import MemoryCache, Namespace
from millrace.errors import Unavailable
from millrace.models import Script
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock


def cached(services: Services, script: Script) -> bool:
    return services.cache.exists(Namespace(script.workspace_id, script.uuid), "key")


def filled(services: Services, slug: str, owner: str = ACME) -> Script:
    script = world.script(services, slug, owner=owner)
    services.cache.set(Namespace(owner, script.uuid), "key", 1)
    return script


def test_a_deleted_script_leaves_nothing_in_the_cache(memory: Services) -> None:
    gone, stays = filled(memory, "gone"), filled(memory, "stays")
    removal.delete(memory, gone)
    assert not cached(memory, gone)
    assert cached(memory, stays)


def test_a_cache_that_is_away_is_emptied_later(memory: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("Redis does not answer")

    script = filled(memory, "gone")
    with monkeypatch.context() as patched:
        patched.setattr(MemoryCache, "forget", away)
        removal.delete(memory, script)
    assert cached(memory, script)
    assert removal.next_deleted() == script.uuid
    assert removal.purge(memory, script.uuid)
    assert not cached(memory, script)


def test_a_deleted_workspace_leaves_nothing_in_the_cache_not_even_what_came_late(
    memory: Services, clock: Clock
) -> None:
    gone, stays = filled(memory, "gone"), filled(memory, "stays", OTHER)
    removal.delete_workspace(memory, ACME)
    while removal.purge_workspaces(memory):
        pass
    memory.cache.set(Namespace(ACME, gone.uuid), "key", "late")
    clock.forward(ms=removal.LATE_MS)
    removal.purge_workspaces(memory)
    assert not cached(memory, gone)
    assert cached(memory, stays)
