"""A script's secrets."""

import dataclasses

import pytest

from millrace import scripts, secrets, vault
from millrace.errors import Invalid, TooLarge
from millrace.models import Script, Secret, Workspace
from millrace.services import Services
from tests import world
from tests.world import OTHER


def put(services: Services, script: Script, given: dict[str, str]) -> Script:
    return scripts.update(services, script, scripts.Change(secrets=given))


def test_values_are_sealed_and_shown_as_references(memory: Services) -> None:
    script = world.script(memory, secrets={"API_KEY": "sk-live-123", "other": "x"})
    assert secrets.references(script) == {
        "API_KEY": "secret://millrace/scripts/acme/hello/API_KEY", "other": "secret://millrace/scripts/acme/hello/other",
    }
    assert all("sk-live" not in row.sealed for row in Secret.select())
    assert secrets.open_all(memory, script) == {"API_KEY": "sk-live-123", "other": "x"}


def test_raw_replaces_a_reference_keeps_and_what_is_left_out_goes(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one", "b": "two", "c": "three"})
    put(memory, script, {"a": secrets.reference(script, "a"), "b": "rotated", "d": "new"})
    assert secrets.open_all(memory, script) == {"a": "one", "b": "rotated", "d": "new"}
    put(memory, script, {})
    assert secrets.open_all(memory, script) == {}


def test_the_guides_reference_without_a_name_keeps_too(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    put(memory, script, {"a": "secret://millrace/scripts/acme/hello"})
    assert secrets.open_all(memory, script) == {"a": "one"}


def test_only_a_change_makes_jails_unfit(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    same = put(memory, script, {"a": secrets.reference(script, "a")})
    assert same.revision == script.revision
    assert put(memory, script, {"a": "two"}).revision == script.revision + 1


@pytest.mark.parametrize("reference", [
    "secret://millrace/scripts/acme/other/a", "secret://millrace/scripts/other/hello/a",
    "secret://millrace/scripts/acme/hello/b", "secret://", "secret://vault/a",
])
def test_a_reference_to_anything_else_is_refused(memory: Services, reference: str) -> None:
    world.script(memory, owner=OTHER, secrets={"a": "charlies"})
    script = world.script(memory, secrets={"a": "one", "b": "two"})
    with pytest.raises(Invalid) as refused:
        put(memory, script, {"a": reference})
    assert refused.value.field == "secrets.a"
    assert secrets.open_all(memory, script) == {"a": "one", "b": "two"}


def test_a_reference_to_what_is_not_stored_is_refused(memory: Services) -> None:
    script = world.script(memory)
    with pytest.raises(Invalid, match="no value is stored"):
        put(memory, script, {"a": secrets.reference(script, "a")})


@pytest.mark.parametrize("name", ["", "1a", "a b", "é", "a" * 129, "a\x00", "a/b", "-a"])
def test_a_bad_name_is_refused(memory: Services, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, secrets={name: "x"})
    assert refused.value.field == "secrets"


def test_there_are_limits(memory: Services) -> None:
    script = world.script(memory)
    with pytest.raises(TooLarge, match="65537 bytes"):
        put(memory, script, {"a": "x" * (secrets.MAX_VALUE_BYTES + 1)})
    with pytest.raises(Invalid, match="100 secrets, not 101"):
        put(memory, script, {f"a{number}": "x" for number in range(101)})
    put(memory, script, {f"a{number}": "x" for number in range(100)})
    put(memory, script, {"a": "x" * secrets.MAX_VALUE_BYTES})


@pytest.mark.parametrize("value", ["", " ", "NUL \x00", "half \ud800", "日本", "line\nbreak", "x" * 60_000])
def test_any_text_is_a_value(memory: Services, value: str) -> None:
    script = world.script(memory, secrets={"a": value})
    assert secrets.open_all(memory, script) == {"a": value}


def test_a_sealed_value_opens_only_in_its_place(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    other = world.script(memory, "other-one", secrets={"a": "two"})
    Secret.update(script=other.uuid, name="b").where(Secret.script == script.uuid).execute()
    with pytest.raises(vault.VaultError):
        secrets.open_all(memory, other)


def test_master_keys_can_be_rotated(memory: Services) -> None:
    script = world.script(memory, secrets={"a": "one"})
    world.workspace(memory, OTHER)
    old, new = vault.new_master_key(), vault.new_master_key()
    with_old = dataclasses.replace(memory, keyring=vault.Keyring.parse(old))
    for workspace in Workspace.select():
        # As if they had been made under the old key.
        raw = memory.keyring.unwrap(workspace.data_key)
        wrapped = vault._wrap(with_old.keyring._newest, raw.raw)
        Workspace.update(data_key=wrapped).where(Workspace.id == workspace.id).execute()
    script = Script.get_by_id(script.uuid)
    with_both = dataclasses.replace(memory, keyring=vault.Keyring.parse(f"{new},{old}"))
    assert secrets.open_all(with_both, script) == {"a": "one"}
    assert secrets.rewrap_data_keys(with_both) == 2
    assert secrets.rewrap_data_keys(with_both) == 0
    script = Script.get_by_id(script.uuid)
    with_new = dataclasses.replace(memory, keyring=vault.Keyring.parse(new))
    assert secrets.open_all(with_new, script) == {"a": "one"}
    with pytest.raises(vault.VaultError):
        secrets.open_all(with_old, script)


def test_the_values_of_a_script_are_limited_together_and_those_that_stay_count(memory: Services) -> None:
    half = secrets.MAX_TOTAL_BYTES // 2
    with pytest.raises(TooLarge, match="3 secrets have 65537 bytes in all, 65536 at most"):
        world.script(memory, "too-much", secrets={"a": "x" * half, "b": "é" * (half // 2), "c": "x"})
    script = world.script(memory, secrets={"a": "x" * half, "b": "é" * (half // 2)})
    keeps = {name: secrets.reference(script, name) for name in ("a", "b")}
    with pytest.raises(TooLarge, match="65537 bytes"):
        put(memory, script, {**keeps, "c": "x"})
    put(memory, script, {**keeps, "c": ""})
    put(memory, script, {"a": keeps["a"], "c": "x" * half})
