"""Sending many dead letters again at one go."""

import pytest

from millrace import deadletters, replays, scripts
from millrace.errors import Unprocessable
from millrace.models import DeadLetter, Run, Script
from millrace.services import Services
from tests import world
from tests.world import ACME


def letter(services: Services, script: Script) -> DeadLetter:
    run = world.start(services, script)
    assert world.finish(services, run, "failed", error="Error: no", error_code="SCRIPT_ERROR")
    deadletters.record(services, script, run.id, "It failed.", services.clock())
    return DeadLetter.get(DeadLetter.run == run.id)


def test_each_is_sent_again_once_in_the_order_that_is_given(memory: Services) -> None:
    script = world.script(memory)
    letters = [letter(memory, script) for _ in range(3)]
    replays.redrive(memory, letters[1])
    done = replays.redrive_many(memory, [letters[2], letters[1], letters[0]])
    assert [Run.get_by_id(each).replay_of for each in done.started] == [letters[2].run_id, letters[0].run_id]
    assert len(done.refused) == 1
    assert "sent again before" in done.refused[0]
    assert deadletters.page(ACME, None, 10, redriven=False) == ([], None)


def test_one_that_can_not_be_sent_holds_up_no_other(memory: Services) -> None:
    stuck, fine = world.script(memory, "stuck"), world.script(memory, "fine")
    letters = [letter(memory, stuck), letter(memory, fine)]
    scripts.change_status(memory, stuck, "paused", "test")
    done = replays.redrive_many(memory, letters)
    assert [Run.get_by_id(each).script_id for each in done.started] == [fine.uuid]
    assert len(done.refused) == 1
    with pytest.raises(Unprocessable):
        replays.redrive_many(memory, letters[:1])
    assert replays.redrive_many(memory, []) == replays.Redriven([], [])
