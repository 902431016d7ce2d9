"""Setting triggers."""

from typing import Any

import pytest

from millrace import scripts, secrets, triggers, vault
from millrace.errors import Conflict, Invalid
from millrace.models import Hook, Script, Subscription
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import world
from tests.world import ACME, OTHER, at_once

SECRET = "eight-or-more"


def http(**values: Any) -> Triggers:
    return Triggers(http=HttpTrigger(**{"path": "/orders", "auth": "none", **values}))


def change(services: Services, script: Script, given: Triggers) -> None:
    scripts.update(services, script, scripts.Change(triggers=given))


def test_triggers_are_shown_without_their_secret(memory: Services) -> None:
    given = Triggers(
        [EventTrigger("order.*"), EventTrigger("a.b", {"data": {"x": [1]}})],
        HttpTrigger("/orders/new", ["GET", "POST"], "signature", "github", SECRET, "async"),
    )
    script = world.script(memory, triggers=given)
    assert triggers.of(script) == {
        "events": [{"pattern": "order.*"}, {"pattern": "a.b", "filter": {"data": {"x": [1]}}}],
        "http": {"path": "/orders/new", "methods": ["GET", "POST"], "auth": "signature", "scheme": "github",
                 "mode": "async"},
    }
    assert SECRET not in Hook.get().secret


def test_new_triggers_replace_all_and_none_removes_all(memory: Services) -> None:
    script = world.script(memory, triggers=Triggers([EventTrigger("a.*")], HttpTrigger("/x", auth="none")))
    change(memory, script, Triggers([EventTrigger("b.*")]))
    assert triggers.of(script) == {"events": [{"pattern": "b.*"}]}
    change(memory, script, Triggers())
    assert triggers.of(script) == {} and Hook.select().count() == Subscription.select().count() == 0


def test_an_update_without_a_secret_keeps_the_one_that_is_stored(memory: Services) -> None:
    script = world.script(memory, triggers=http(auth="key", secret=SECRET))
    change(memory, script, http(path="/moved", auth="key"))
    hook = triggers.hook_for(ACME, "/moved")
    assert hook is not None and triggers.hook_secret(memory, hook) == SECRET
    change(memory, script, http(auth="key", secret="another-secret"))
    hook = triggers.hook_for(ACME, "/orders")
    assert hook is not None and triggers.hook_secret(memory, hook) == "another-secret"
    change(memory, script, http())
    hook = triggers.hook_for(ACME, "/orders")
    assert hook is not None and triggers.hook_secret(memory, hook) is None


def test_a_hooks_secret_opens_nowhere_else(memory: Services) -> None:
    world.script(memory, triggers=http(auth="key", secret=SECRET))
    other = world.script(memory, "other-one")
    with pytest.raises(vault.VaultError):
        secrets.open_one(memory, other, "http trigger", Hook.get().secret)


@pytest.mark.parametrize(("given", "field"), [
    (http(path=""), "path"), (http(path="orders"), "path"), (http(path="/"), "path"), (http(path="//a"), "path"),
    (http(path="/a/"), "path"), (http(path="/a/../b"), "path"), (http(path="/."), "path"), (http(path="/a b"), "path"),
    (http(path="/é"), "path"), (http(path="/a\n"), "path"), (http(path="/a" * 11), "path"),
    (http(path="/" + "a" * 200), "path"), (http(path="/a?b"), "path"), (http(path="/%00"), "path"),
    (http(methods=[]), "methods"), (http(methods=["POST", "POST"]), "methods"), (http(methods=["TRACE"]), "methods"),
    (http(methods=["post"]), "methods"), (http(auth="key"), "secret"), (http(auth="key", secret=""), "secret"),
    (http(auth="key", secret="x" * 501), "secret"), (http(secret=SECRET), "secret"),
    (http(auth="signature", secret=SECRET), "scheme"), (http(auth="key", scheme="github", secret=SECRET), "scheme"),
    (http(auth="signature", scheme="standard", secret="this is no base64!"), "secret"),
])
def test_a_bad_hook_is_refused_by_its_field(memory: Services, given: Triggers, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, triggers=given)
    assert refused.value.field == f"triggers.http.{field}"
    assert "this is no" not in refused.value.message
    assert Script.select().count() == 0


@pytest.mark.parametrize(("events", "field"), [
    ([EventTrigger("")], "triggers.events[0]"), ([EventTrigger("a"), EventTrigger("a.***")], "triggers.events[1]"),
    ([EventTrigger("a", {"x": [{"no such": 1}]})], "triggers.events[0]"),
    ([EventTrigger("a")] * 51, "triggers.events"),
])
def test_a_bad_subscription_is_refused_by_its_place(memory: Services, events: list[EventTrigger], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.script(memory, triggers=Triggers(events))
    assert refused.value.field == field
    assert Script.select().count() == 0


def test_a_path_belongs_to_one_script_of_a_workspace(memory: Services) -> None:
    world.script(memory, "one-script", triggers=http())
    with pytest.raises(Conflict, match="has the path '/orders'"):
        world.script(memory, "two-scripts", triggers=http())
    charlies = world.script(memory, owner=OTHER, triggers=http())
    hook = triggers.hook_for(OTHER, "/orders")
    assert hook is not None and hook.script_id == charlies.uuid
    assert Script.select().count() == 2


def test_two_at_once_cannot_both_take_a_path(memory: Services) -> None:
    scripts_made = [world.script(memory, f"script-{number}") for number in range(3)]
    answers = at_once(memory.database, *[lambda each=each: change(memory, each, http()) for each in scripts_made])
    assert sorted(type(each).__name__ for each in answers) == ["Conflict", "Conflict", "NoneType"]
    assert Hook.select().count() == 1


@pytest.mark.parametrize(("workspace", "path"), [
    (ACME, "/other"), (OTHER, "/orders"), (ACME, "orders"), (ACME, "/orders\x00"), ("\x00", "/orders"),
    ("half \ud800", "/orders"), (ACME, "/ORDERS"), (ACME, "/" + "x" * 10_000),
])
def test_what_is_no_hook_is_none(memory: Services, workspace: str, path: str) -> None:
    world.script(memory, triggers=http())
    assert triggers.hook_for(workspace, path) is None
