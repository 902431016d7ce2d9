"""The page that says what does not happen names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "durability.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").glob("**/test_*.py"))
    existing = set(re.findall(r"^def (test_\w+)\(", written, re.MULTILINE))
    assert len(named) > 30
    assert named <= existing, named - existing
