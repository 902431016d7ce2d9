"""What workers offer is known to everybody, for as long as a worker offers it."""

import pytest

from millrace import languages, runtimes
from millrace.errors import Invalid, NotFound
from millrace.runtimes import FORGOTTEN_AFTER_MS, Library, Offer
from millrace.services import Services
from tests.world import Clock

NODE = Offer("nodejs20", "20.20.2", [Library("axios", "1.7.9")], ["crypto"])
PYTHON = Offer("python3.12", "3.12.1", [Library("requests", "2.34.2")], ["json", "os"])


def test_an_offer_replaces_what_was_known_of_its_name(memory: Services) -> None:
    runtimes.register(memory, [NODE])
    runtimes.register(memory, [Offer("nodejs20", "20.21.0", [], ["url"])])
    (known,) = runtimes.known()
    assert (known.version, known.libraries, known.modules) == ("20.21.0", [], ["url"])


def test_what_no_worker_offers_any_more_is_forgotten_in_time(memory: Services, clock: Clock) -> None:
    runtimes.register(memory, [NODE, PYTHON])
    clock.forward(ms=FORGOTTEN_AFTER_MS)
    runtimes.register(memory, [NODE])
    assert [each.name for each in runtimes.known()] == ["nodejs20", "python3.12"]
    clock.forward(ms=1)
    runtimes.register(memory, [NODE])
    assert [each.name for each in runtimes.known()] == ["nodejs20"]
    with pytest.raises(NotFound):
        runtimes.find("python3.12")
    with pytest.raises(Invalid, match="nodejs20"):
        runtimes.choose("python3.12")


@pytest.mark.parametrize(
    ("runtime", "language"), [("nodejs20", "javascript"), ("nodejs24", "javascript"), ("python3.13", "python")]
)
def test_the_name_of_a_runtime_tells_its_language(runtime: str, language: str) -> None:
    assert languages.of(runtime).name == language
