"""What workers make known of runtimes."""

import peewee
import pytest

from millrace.models import Runtime
from millrace.services import Services
from worker import offers
from worker.offers import Offers


def test_a_database_that_is_away_ends_nothing_and_hears_it_as_soon_as_it_is_back(
    local: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Offers(local)

    def away(*_: object) -> None:
        raise peewee.OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(offers.runtimes, "register", away)
        ours.repeat()
    with local.database.connection_context():
        assert Runtime.select().count() == 0
    ours.repeat()
    with local.database.connection_context():
        assert Runtime.select().count() > 0


def test_they_are_not_written_each_time(local: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Offers(local)
    ours.repeat()
    monkeypatch.setattr(offers.runtimes, "register", pytest.fail)
    ours.repeat()
