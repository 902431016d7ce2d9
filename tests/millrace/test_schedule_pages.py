"""All schedules of a workspace, and what became of the latest due time of each."""

from millrace import schedules, scripts
from millrace.models import Firing, Script
from millrace.paging import Position
from millrace.services import Services
from tests import world
from tests.world import ACME, OTHER, Clock


def test_a_workspaces_schedules_come_in_pages_each_once(memory: Services, clock: Clock) -> None:
    made = []
    for number in range(5):
        clock.forward(ms=number % 2)  # some are made in the same millisecond
        made.append(world.script(memory, f"script-{number}", schedule="daily").uuid)
    world.script(memory, "without")
    world.script(memory, "foreign", owner=OTHER, schedule="daily")
    gone = world.script(memory, "gone", schedule="daily")
    Script.update(status="deleted").where(Script.uuid == gone.uuid).execute()
    seen: list[str] = []
    place: Position | None = None
    while True:
        rows, place = schedules.page(ACME, place, 2)
        seen += [each.script.uuid for each in rows]
        if place is None:
            break
    assert sorted(seen) == sorted(made)
    assert seen[-1] == made[0]


def test_a_last_firing_is_of_the_latest_due_time(memory: Services, clock: Clock) -> None:
    twice, never = world.script(memory, "twice"), world.script(memory, "never")
    other = world.script(memory, "other")
    for script, due_at in ((twice, 1000), (twice, 3000), (twice, 2000), (other, 4000)):
        Firing.create(script=script.uuid, due_at=due_at, fired_at=clock.now, outcome="ran")
    found = schedules.last_firings([twice.uuid, never.uuid])
    assert {uuid: firing.due_at for uuid, firing in found.items()} == {twice.uuid: 3000}
    assert schedules.last_firings([]) == {}


def test_a_schedule_that_is_removed_is_no_longer_listed(memory: Services) -> None:
    script = world.script(memory, schedule="daily")
    assert len(schedules.page(ACME, None, 10)[0]) == 1
    scripts.update(memory, script, scripts.Change(schedule=""))
    assert schedules.page(ACME, None, 10) == ([], None)
