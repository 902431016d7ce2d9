"""Scripts in Python are uploaded, checked and stored as those in JavaScript are."""

import pytest

from millrace import runtimes
from millrace.runtimes import Library, Offer
from millrace.services import Services
from tests import factories
from tests.web.conftest import Client, error_of

SOURCE = "import requests\n\ndef handler(payload, context):\n    return {'hello': payload['name']}\n"
PYTHON = Offer("python3.11", "3.11.7", [Library("requests", "2.34.2")], ["json", "os", "dateutil"])


@pytest.fixture(autouse=True)
def offered(services: Services, client: Client) -> None:
    runtimes.register(services, [PYTHON])


def create(client: Client, source: str = SOURCE, **fields: object) -> dict[str, object]:
    response = client.post("/scripts", json=factories.body("snake", source, runtime="python3.11", **fields))
    assert response.status_code == 201, response.json
    made: dict[str, object] = response.json  # type: ignore[assignment]
    return made


def test_a_python_script_has_its_own_entry_point_and_is_stored_as_python(client: Client, services: Services) -> None:
    made = create(client)
    assert (made["runtime"], made["entry_point"]) == ("python3.11", "handler")
    key = str(made["script_s3_key"])
    assert key.endswith(".py")
    assert services.objects.get(key) == SOURCE.encode()


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("import subprocess\ndef handler(p, c): pass\n", 1, "subprocess"),
        ("def handler(p, c):\n    return eval(p)\n", 2, "eval"),
        ("def handler(p, c)\n    pass\n", 1, "expected"),
        ("exports.handler = async () => 1;\n", 1, "syntax"),
        ("def other(p, c): pass\n", 1, "handler"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_its_line(client: Client, source: str, line: int, words: str) -> None:
    response = client.post("/scripts", json=factories.body("snake", source, runtime="python3.11"))
    error = error_of(response, 400, "VALIDATION_FAILED")
    assert error["details"][0]["line"] == line
    assert words.lower() in error["message"].lower()
    assert client.get("/scripts/snake").status_code == 404


def test_names_that_mean_javascript_are_no_entry_point_of_python(client: Client) -> None:
    body = factories.body("snake", SOURCE, runtime="python3.11", entry_point="exports.handler")
    assert "entry_point" in error_of(client.post("/scripts", json=body), 400, "VALIDATION_FAILED")["message"]


def test_an_update_and_a_new_entry_point_are_checked_as_python(client: Client) -> None:
    create(client)
    wrong = client.put("/scripts/snake", json=factories.upload("import ctypes\ndef handler(p, c): pass\n"))
    error_of(wrong, 400, "VALIDATION_FAILED")
    error_of(client.put("/scripts/snake", json={"entry_point": "missing"}), 400, "VALIDATION_FAILED")
    changed = client.put("/scripts/snake", json=factories.upload("import dateutil\nasync def handler(p, c): pass\n"))
    assert (changed.status_code, changed.json["script_version"]) == (200, 2)  # type: ignore[index]


def test_both_languages_are_offered_with_their_versions(client: Client) -> None:
    listed = {each["name"]: each["version"] for each in client.get("/runtimes").json}  # type: ignore[union-attr]
    assert listed == {"nodejs20": "20.20.2", "python3.11": "3.11.7"}
