"""The databases that a workspace registers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peewee
import pytest

from millrace import datasources, vault
from millrace.datasources import Change, NewSource
from millrace.errors import Conflict, Invalid, NotFound
from millrace.models import Audit, DataSource
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER

PLACE = {"host": "db.example.com", "port": 5432, "database": "shop", "user": "reader"}
ALICE = "alice@example.com"


@pytest.fixture
def services(memory: Services, tmp_path: Path) -> Services:
    world.workspace(memory)
    world.workspace(memory, OTHER)
    return dataclasses.replace(memory, settings=dataclasses.replace(memory.settings, data_sources=tmp_path))


def postgres(name: str = "default", password: str | None = "pass-word-1", **place: Any) -> NewSource:
    return NewSource(name, "postgresql", {**PLACE, **place}, password)


def lite(file: str = "shop.db", name: str = "lite") -> NewSource:
    return NewSource(name, "sqlite", {"file": file})


def test_a_password_is_sealed_and_nowhere_to_be_seen(services: Services) -> None:
    source = datasources.register(services, ACME, postgres(), ALICE)
    assert datasources.password_of(services, source) == "pass-word-1"
    stored = json.dumps([list(DataSource.select().dicts()), list(Audit.select().dicts())], default=str)
    assert "pass-word-1" not in stored + repr(postgres()) + repr(Change(password="pass-word-1"))


def test_a_sealed_password_opens_for_its_own_source_alone(services: Services) -> None:
    first = datasources.register(services, ACME, postgres("first", "one"), ALICE)
    second = datasources.register(services, ACME, postgres("second", "two"), ALICE)
    foreign = datasources.register(services, OTHER, postgres("first", "three"), "charlie")
    for other in (second, foreign):
        moved = DataSource(**{**first.__data__, "sealed": other.sealed})
        with pytest.raises(vault.VaultError):
            datasources.password_of(services, moved)


def test_names_are_a_workspaces_own(services: Services) -> None:
    datasources.register(services, ACME, postgres(), ALICE)
    datasources.register(services, OTHER, postgres(), "charlie")
    with pytest.raises(Conflict):
        datasources.register(services, ACME, lite(name="default"), ALICE)
    assert [each.name for each in datasources.listing(ACME)] == ["default"]


def test_another_workspaces_source_is_as_one_that_does_not_exist(services: Services) -> None:
    datasources.register(services, OTHER, lite(), "charlie")
    for deed in (
        lambda: datasources.find(ACME, "lite"),
        lambda: datasources.update(services, ACME, "lite", Change(name="mine"), ALICE),
        lambda: datasources.delete(services, ACME, "lite", ALICE),
        lambda: datasources.chosen(ACME, "lite"),
    ):
        with pytest.raises(NotFound, match=r"There is no data source 'lite'\."):
            deed()
    assert datasources.find(OTHER, "lite").name == "lite"


def test_a_script_that_names_none_means_the_default_or_the_only_one(services: Services) -> None:
    with pytest.raises(NotFound, match="no data source"):
        datasources.chosen(ACME, None)
    datasources.register(services, ACME, lite(), ALICE)
    assert datasources.chosen(ACME, None).name == "lite"
    datasources.register(services, ACME, postgres("warehouse"), ALICE)
    with pytest.raises(NotFound, match="name the one to use"):
        datasources.chosen(ACME, None)
    datasources.register(services, ACME, postgres(), ALICE)
    assert datasources.chosen(ACME, None).name == "default"
    assert datasources.chosen(ACME, "warehouse").name == "warehouse"


def test_changes_keep_what_they_do_not_name_and_leave_a_trail(services: Services) -> None:
    datasources.register(services, ACME, postgres(), ALICE)
    changed = datasources.update(services, ACME, "default", Change(name="main-db", tenant_column="org_id"), ALICE)
    assert (changed.name, changed.tenant_column, changed.tenant_setting) == ("main-db", "org_id", "app.tenant_id")
    assert datasources.password_of(services, changed) == "pass-word-1"
    datasources.update(services, ACME, "main-db", Change(password="new-pass"), ALICE)
    assert datasources.password_of(services, datasources.find(ACME, "main-db")) == "new-pass"
    datasources.delete(services, ACME, "main-db", ALICE)
    assert datasources.listing(ACME) == []
    trail = [(each.actor, each.action, each.details) for each in Audit.select().order_by(Audit.id)]
    assert trail == [
        (ALICE, "data_source.created", {"kind": "postgresql"}),
        (ALICE, "data_source.changed", {"changed": ["name", "tenant_column"]}),
        (ALICE, "data_source.changed", {"changed": ["password"]}),
        (ALICE, "data_source.deleted", {}),
    ]


@pytest.mark.parametrize("elsewhere", [{"host": "evil.example.com"}, {"port": 6432}, {"sslmode": "disable"}])
def test_a_kept_password_is_not_sent_elsewhere(services: Services, elsewhere: dict[str, Any]) -> None:
    """Who may change a source need not know its password, and must not get it sent to a server of theirs."""
    datasources.register(services, ACME, postgres(), ALICE)
    with pytest.raises(Invalid) as refused:
        datasources.update(services, ACME, "default", Change(place={**PLACE, **elsewhere}), ALICE)
    assert refused.value.field == "password"
    datasources.update(services, ACME, "default", Change(place={**PLACE, **elsewhere}, password="again"), ALICE)


def test_of_two_changes_at_once_none_sends_a_password_elsewhere(
    services: Services, database: peewee.Database
) -> None:
    source = datasources.register(services, ACME, postgres(), ALICE)
    moves = [Change(place={**PLACE, "host": f"h{number}.example.com"}, password=f"p{number}") for number in range(4)]
    world.at_once(database, *(
        lambda move=move: datasources.update(services, ACME, "default", move, ALICE) for move in moves
    ))  # fmt: skip
    after = DataSource.get_by_id(source.id)
    number = after.place["host"][1]
    assert datasources.password_of(services, after) == f"p{number}"


def test_a_password_for_one_place_does_not_meet_another_place(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Charlie, who may change sources too, moves it while Alice gives the password for where it was."""
    datasources.register(services, ACME, postgres(), ALICE)
    seal = datasources._seal

    def meanwhile(*given: Any) -> str | None:
        monkeypatch.setattr(datasources, "_seal", seal)
        moved = Change(place={**PLACE, "host": "evil.example.com"}, password="x")
        datasources.update(services, ACME, "default", moved, "charlie")
        return seal(*given)

    monkeypatch.setattr(datasources, "_seal", meanwhile)
    with pytest.raises(Conflict):
        datasources.update(services, ACME, "default", Change(password="for the old place"), ALICE)
    assert datasources.password_of(services, datasources.find(ACME, "default")) == "x"


@pytest.mark.parametrize(("field", "new"), [
    ("name", postgres("Upper")), ("name", postgres("")), ("name", postgres("a" * 64)), ("name", postgres("-a")),
    ("name", postgres("a\n")), ("kind", NewSource("x", "mysql", {})),
    ("place.host", postgres(host="/var/run")), ("place.host", postgres(host="a,b")),
    ("place.host", postgres(host="a b")),
    ("place.host", postgres(host="")), ("place.host", postgres(host=None)), ("place.host", postgres(host="h=1")),
    ("place.port", postgres(port=0)), ("place.port", postgres(port="5432")), ("place.port", postgres(port=True)),
    ("place.database", postgres(database="")), ("place.user", postgres(user="a\0b")),
    ("place.sslmode", postgres(sslmode="maybe")), ("place.options", postgres(options="-c x=y")),
    ("place.schema", postgres(schema="pg_catalog")), ("place.schema", postgres(schema="information_schema")),
    ("place.schema", postgres(schema='p"')), ("password", postgres(password="")),
    ("password", postgres(password="a\0")),
    ("place.file", lite("../x.db")), ("place.file", lite("/etc/passwd")), ("place.file", lite("a/b.db")),
    ("place.file", lite("..")), ("place.file", lite("")), ("place.file", lite(".hidden")), ("place.file", lite("a\\b")),
    ("place.file", lite("x.db?mode=rw")), ("place.file", lite("x\n")),
    ("password", dataclasses.replace(lite(), password="x")),
    ("tenant_column", dataclasses.replace(lite(), tenant_column='a"b')),
    ("tenant_setting", dataclasses.replace(postgres(), tenant_setting="role")),
    ("tenant_setting", dataclasses.replace(postgres(), tenant_setting="a.b'c")),
])  # fmt: skip
def test_what_is_wrong_is_named(services: Services, field: str, new: NewSource) -> None:
    with pytest.raises(Invalid) as refused:
        datasources.register(services, ACME, new, ALICE)
    assert refused.value.field == field
    assert datasources.listing(ACME) == []


def test_there_is_a_limit_to_their_number(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasources, "MAX_SOURCES", 1)
    datasources.register(services, ACME, lite(), ALICE)
    with pytest.raises(Invalid):
        datasources.register(services, ACME, postgres(), ALICE)
    datasources.register(services, OTHER, postgres(), "charlie")


def test_a_file_is_one_of_the_workspaces_own_folder(services: Services, tmp_path: Path) -> None:
    source = datasources.register(services, ACME, lite(), ALICE)
    with pytest.raises(NotFound):
        datasources.sqlite_file(services, source)
    for owner in (ACME, OTHER):
        (tmp_path / owner).mkdir()
    file = tmp_path / ACME / "shop.db"
    file.touch()
    assert datasources.sqlite_file(services, source) == file.resolve()
    file.unlink()
    file.mkdir()
    with pytest.raises(NotFound):
        datasources.sqlite_file(services, source)


@pytest.mark.parametrize("target", ["../other/secret.db", "/etc/hostname", "inner/deep.db", "shop.db"])
def test_a_link_leads_nowhere_else(services: Services, tmp_path: Path, target: str) -> None:
    source = datasources.register(services, ACME, lite(), ALICE)
    (tmp_path / ACME / "inner").mkdir(parents=True)
    (tmp_path / OTHER).mkdir()
    for path in (tmp_path / OTHER / "secret.db", tmp_path / ACME / "inner" / "deep.db"):
        path.touch()
    (tmp_path / ACME / "shop.db").symlink_to(target)
    with pytest.raises(NotFound):
        datasources.sqlite_file(services, source)
