"""The short form: every kind of fault once, under load. `make chaos` does it for minutes."""

from pathlib import Path

import pytest

from tests.chaos import campaign
from tests.chaos.faults import SHORT

SEED = 1


@pytest.mark.timeout(600)
def test_what_was_accepted_is_accounted_for_once_whatever_dies(tmp_path: Path) -> None:
    report = campaign.run(tmp_path, 0, SEED, SHORT)
    print("\n".join(report.diary))
    print(report.table())
    assert report.verdict.problems == []
    assert all(report.promises[kind] for kind in ("sync", "async", "retried", "hook", "event", "batch"))
    assert len(report.faults) == 10
