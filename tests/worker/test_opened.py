"""The memory of opened secrets."""

import pytest

from millrace import assignments, scripts, secrets
from millrace.models import Script
from millrace.services import Services
from tests.worker.support import new_script, submit
from worker.opened import Opened, OpenedSecrets


@pytest.fixture
def database_kind() -> str:
    """Nothing here depends on it."""
    return "sqlite"


def get(opened: OpenedSecrets, services: Services, script: Script) -> Opened:
    found = assignments.load(submit(services, script).id)
    assert found is not None
    return opened.get(found)


def test_secrets_are_opened_once_for_each_revision(local: Services) -> None:
    script = new_script(local, secrets={"KEY": "hunter2!"})
    opened = OpenedSecrets(local)
    first = get(opened, local, script)
    assert get(opened, local, script) is first
    scripts.update(local, script, scripts.Change(secrets={"KEY": "swordfish"}))
    second = get(opened, local, script)
    assert (first.values, second.values) == ({"KEY": "hunter2!"}, {"KEY": "swordfish"})
    assert second.redactor is not None
    assert second.redactor.mask("swordfish hunter2!") == "*** hunter2!"


def test_the_least_recently_used_script_makes_room(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    open_all, asked = secrets.open_all, []

    def noted(services: Services, script: Script) -> dict[str, str]:
        asked.append(script.slug)
        return open_all(services, script)

    monkeypatch.setattr(secrets, "open_all", noted)
    opened = OpenedSecrets(local, max_scripts=2)
    made = {slug: new_script(local, slug=slug, secrets={"KEY": f"value-of-{slug}"}) for slug in ("aaa", "bbb", "ccc")}
    for slug in ("aaa", "bbb", "aaa", "ccc", "aaa", "bbb"):
        assert get(opened, local, made[slug]).values == {"KEY": f"value-of-{slug}"}
    assert asked == ["aaa", "bbb", "ccc", "bbb"]


def test_a_script_without_secrets_asks_for_none(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(secrets, "open_all")
    assert get(OpenedSecrets(local), local, new_script(local)) == Opened({}, None)


def test_no_value_shows_when_printed() -> None:
    assert "hunter2" not in repr(Opened({"KEY": "hunter2!"}))
