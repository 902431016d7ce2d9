"""The pool of jails shows in the metrics."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import REGISTRY

from sandbox.job import SandboxUnavailable
from worker.poolwatch import PoolWatch

SHAPE = {"runtime": "nodejs20", "preloaded": False}
LABELS = {"runtime": "nodejs20", "preloaded": "no"}
NOTHING: Mapping[str, Any] = {"jails": [], "wanted": [], "boots": [], "ends": []}


class Told:
    """Figures one after the other, then a launcher that is away."""

    def __init__(self, *answers: Mapping[str, Any]) -> None:
        self._answers = list(answers)

    def __call__(self) -> Mapping[str, Any]:
        if not self._answers:
            raise SandboxUnavailable("the launcher is gone")
        return {**NOTHING, **self._answers.pop(0)}


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {**LABELS, **labels}) or 0.0


def watch(*answers: Mapping[str, Any]) -> PoolWatch:
    return PoolWatch(Told(*answers))


def test_jails_show_by_state_and_vanish_when_they_are_gone() -> None:
    one = watch(
        {"jails": [{**SHAPE, "state": "warm", "count": 3}], "wanted": [{**SHAPE, "count": 4}]},
        {"jails": [{**SHAPE, "state": "busy", "count": 1}]},
    )
    one.look()
    assert (value("millrace_jails", state="warm"), value("millrace_jails_wanted")) == (3, 4)
    one.look()
    assert (value("millrace_jails", state="warm"), value("millrace_jails", state="busy")) == (0, 1)
    assert value("millrace_jails_wanted") == 0


def test_boots_and_ends_add_up() -> None:
    before = value("millrace_jail_boots_total"), value("millrace_jail_ends_total", reason="idle")
    boots, ends = [{**SHAPE, "count": 2, "seconds": 0.5}], [{**SHAPE, "reason": "idle", "count": 1}]
    one = watch({"boots": boots, "ends": ends}, {"boots": boots})
    one.look()
    one.look()
    after = value("millrace_jail_boots_total"), value("millrace_jail_ends_total", reason="idle")
    assert (after[0] - before[0], after[1] - before[1]) == (4, 1)


def test_a_launcher_that_is_away_changes_nothing() -> None:
    one = watch({"jails": [{**SHAPE, "state": "parked", "count": 2}]})
    one.look()
    one.look()
    assert value("millrace_jails", state="parked") == 2
