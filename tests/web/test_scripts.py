import hashlib
from typing import Any

import pytest

from millrace import scripts, secrets
from millrace.models import Runtime, Script, Secret, Version
from millrace.services import Services
from tests import factories
from tests.factories import Tenant
from tests.web.conftest import Client, error_of, fields_of

OTHER_SOURCE = b"exports.handler = async () => 2;\n"
FIELDS = {
    "uuid", "id", "workspace_id", "display_name", "description", "runtime", "script_hash", "script_version",
    "script_s3_key", "entry_point", "status", "memory_mb", "timeout_seconds", "ephemeral_storage_mb", "schedule",
    "secrets", "tags", "created_at", "updated_at",
}  # fmt: skip
EXTENSIONS = {
    "retry", "concurrency", "time_zone", "schedule_policy", "isolation", "max_concurrent_runs", "egress_hosts",
    "callback_url",
    "triggers",
}  # fmt: skip


def test_create_answers_201_with_the_whole_resource(client: Client, services: Services, alice: Tenant) -> None:
    before = services.clock()
    response = client.post("/scripts", json=factories.body("my-script"))
    assert response.status_code == 201
    made = response.json
    assert made is not None
    assert set(made) == FIELDS | EXTENSIONS
    stored = Script.get(Script.slug == "my-script")
    assert made == {
        "uuid": stored.uuid, "id": "my-script", "workspace_id": alice.id, "display_name": "My-Script",
        "description": "", "runtime": "nodejs20", "script_hash": hashlib.sha256(factories.SOURCE).hexdigest(),
        "script_version": 1, "script_s3_key": made["script_s3_key"], "entry_point": "exports.handler",
        "status": "active", "memory_mb": 256, "timeout_seconds": 30, "ephemeral_storage_mb": 32, "schedule": None,
        "secrets": {}, "tags": {}, "created_at": made["created_at"], "updated_at": made["created_at"],
        "time_zone": None, "schedule_policy": None, "isolation": "reuse", "max_concurrent_runs": 10,
        "egress_hosts": None, "callback_url": None, "triggers": {},
        "retry": None, "concurrency": None,
    }  # fmt: skip
    assert services.objects.get(made["script_s3_key"]) == factories.SOURCE
    assert made["created_at"].endswith("Z")
    assert stored.created_at >= before
    assert client.get("/scripts/my-script").json == made


def test_create_keeps_every_field(client: Client) -> None:
    given: dict[str, Any] = {
        "description": "Bills people \u2603", "entry_point": "handler", "memory_mb": 1024, "timeout_seconds": 900,
        "schedule": "cron(0 12 * * ? *)", "time_zone": "Europe/Zurich", "tags": {"team": "billing"},
        "isolation": "fresh", "max_concurrent_runs": 3,
        "egress_hosts": ["api.example.com", "*.example.org", "192.0.2.7"],
        "triggers": {
            "events": [{"pattern": "order.*", "filter": {"total": 5}}, {"pattern": "**"}],
            "http": {"path": "/orders", "methods": ["POST", "PUT"], "auth": "signature", "scheme": "github",
                     "mode": "async", "secret": "a long secret"},
        },
    }  # fmt: skip
    made = client.post("/scripts", json=factories.body(**given)).json
    assert made is not None
    shown = {**given, "triggers": {**given["triggers"], "http": {**given["triggers"]["http"]}}}
    del shown["triggers"]["http"]["secret"]
    assert {name: made[name] for name in given} == shown


def test_no_answer_ever_holds_a_secrets_value(client: Client) -> None:
    hook = {"path": "/h", "auth": "key", "secret": "hook-secret-value"}
    given = factories.body(secrets={"API_KEY": "sk-plain", "OTHER": "x" * 100}, triggers={"http": hook})
    made = client.post("/scripts", json=given)
    texts = [
        made.text, client.get("/scripts").text, client.get("/scripts/hello").text,
        client.put("/scripts/hello", json={"secrets": {"API_KEY": "sk-plain"}}).text,
    ]  # fmt: skip
    for text in texts:
        assert "sk-plain" not in text
        assert "hook-secret-value" not in text
    assert made.json is not None
    assert made.json["secrets"]["API_KEY"].startswith("secret://")
    assert "sk-plain" not in Secret.get(Secret.name == "API_KEY").sealed


def test_a_refused_secret_is_not_repeated(client: Client) -> None:
    for given in ({"bad name!": "sk-plain"}, {"A": ["sk-plain"]}, {"A": "sk-plain\0"}, ["sk-plain"], "sk-plain"):
        response = client.post("/scripts", json=factories.body(secrets=given))
        error_of(response, 400, "VALIDATION_FAILED")
        assert "sk-plain" not in response.text
    hook = {"path": "/h", "auth": "key", "secret": "short"}
    response = client.post("/scripts", json=factories.body(triggers={"http": hook}))
    assert fields_of(error_of(response, 400, "VALIDATION_FAILED")) == {"triggers.http.secret"}
    assert "short" not in response.text


def test_secrets_are_replaced_kept_rotated_and_cleared(client: Client, services: Services, alice: Tenant) -> None:
    made = client.post("/scripts", json=factories.body(secrets={"A": "1", "B": "2", "C": "3"})).json
    assert made is not None
    script = scripts.find(alice.id, "hello")
    changed = client.put("/scripts/hello", json={"secrets": {"A": made["secrets"]["A"], "B": "new"}}).json
    assert changed is not None
    assert set(changed["secrets"]) == {"A", "B"}
    assert secrets.open_all(services, script) == {"A": "1", "B": "new"}
    assert client.put("/scripts/hello", json={"display_name": "x"}).json["secrets"] == changed["secrets"]  # type: ignore[index]
    assert client.put("/scripts/hello", json={"secrets": {}}).json["secrets"] == {}  # type: ignore[index]
    unknown = client.put("/scripts/hello", json={"secrets": {"A": made["secrets"]["A"]}})
    assert fields_of(error_of(unknown, 400, "VALIDATION_FAILED")) == {"secrets.A"}


@pytest.mark.parametrize("name", ["id", "display_name", "runtime", "script_content", "script_hash"])
def test_a_missing_required_field_is_named(client: Client, name: str) -> None:
    given = factories.body()
    del given[name]
    error = error_of(client.post("/scripts", json=given), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {name}
    assert name in error["message"]


_BROKEN: list[tuple[str, Any]] = [
    ("id", "ab"), ("id", "a" * 64), ("id", "Abc"), ("id", "-abc"), ("id", "abc-"), ("id", "a_c"), ("id", "abc\n"),
    ("id", 5), ("id", None), ("id", "\u00e4bc"),
    ("display_name", ""), ("display_name", "x" * 201), ("display_name", None), ("display_name", "a\0b"),
    ("display_name", "\ud800"), ("description", "x" * 4001), ("description", 1),
    ("runtime", "python3.12"), ("runtime", "NODEJS20"), ("runtime", ""), ("runtime", ["nodejs20"]),
    ("memory_mb", 127), ("memory_mb", 1025), ("memory_mb", "256"), ("memory_mb", True), ("memory_mb", 256.5),
    ("memory_mb", None), ("memory_mb", 10**30), ("memory_mb", [256]),
    ("timeout_seconds", 4), ("timeout_seconds", 901), ("timeout_seconds", -1),
    ("schedule", "every day"), ("schedule", "rate(0 hours)"), ("schedule", "cron(0 12 * * * *)"), ("schedule", 5),
    ("time_zone", "Mars/Base"), ("time_zone", ""), ("time_zone", "UTC"),
    ("entry_point", ""), ("entry_point", "1x"), ("entry_point", "x" * 201), ("entry_point", "exports.main"),
    ("script_hash", "0" * 64), ("script_hash", "xyz"), ("script_hash", ""),
    ("script_content", "not base64!"), ("script_content", 5),
    ("secrets", {"1 bad": "x"}), ("secrets", {"A": 5}), ("secrets", {"A": None}), ("secrets", []),
    ("secrets", {"A": "secret://elsewhere"}), ("secrets", {f"S{n}": "x" for n in range(101)}),
    ("tags", {"a": 1}), ("tags", []), ("tags", {"": "x"}), ("tags", {"a": "x" * 257}), ("tags", None),
    ("tags", {str(n): "x" for n in range(51)}), ("tags", {"a\0": "x"}),
    ("isolation", "none"), ("max_concurrent_runs", 0), ("max_concurrent_runs", 1001),
    ("egress_hosts", "example.com"), ("egress_hosts", ["exa mple.com"]), ("egress_hosts", ["https://x.com"]),
    ("egress_hosts", ["*"]), ("egress_hosts", ["127.1"]), ("egress_hosts", ["x.com"] * 101),
    ("triggers", []), ("triggers", {"foo": 1}), ("triggers", {"events": [{}]}), ("triggers", {"events": {}}),
    ("triggers", {"events": [{"pattern": "a..b"}]}), ("triggers", {"events": [{"pattern": "x"}] * 51}),
    ("triggers", {"events": [{"pattern": "a", "filter": []}]}),
    ("triggers", {"http": {}}), ("triggers", {"http": {"path": "x"}}), ("triggers", {"http": {"path": "/x"}}),
    ("triggers", {"http": {"path": "/x", "auth": "none", "methods": ["GRAB"]}}),
    ("triggers", {"http": {"path": "/x", "auth": "none", "methods": []}}),
    ("triggers", {"http": {"path": "/x", "auth": "signature", "secret": "12345678"}}),
    ("triggers", {"http": {"path": "/../x", "auth": "none"}}) ,
]  # fmt: skip


@pytest.mark.parametrize("field", sorted({field for field, _ in _BROKEN}))
def test_a_broken_rule_is_400_names_the_field_and_leaves_nothing(
    client: Client, services: Services, field: str
) -> None:
    for value in [value for name, value in _BROKEN if name == field]:
        response = client.post("/scripts", json={**factories.body(), field: value})
        error = error_of(response, 400, "VALIDATION_FAILED")
        named = {name.split(".")[0].split("[")[0] for name in fields_of(error)}
        assert named == {field}, (value, error)
    assert Script.select().count() == Version.select().count() == 0
    assert services.objects.list("scripts/") == []


@pytest.mark.parametrize(
    "field", ["scrpt", "uuid", "status", "script_version", "retry", "priority", "ephemeral_storage_mb"]
)
def test_an_unknown_field_is_refused(client: Client, field: str) -> None:
    error = error_of(client.post("/scripts", json=factories.body(**{field: 1})), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {field}


def test_an_unknown_runtime_is_told_which_there_are(client: Client) -> None:
    error = error_of(
        client.post("/scripts", json={**factories.body(), "runtime": "python3.12"}), 400, "VALIDATION_FAILED"
    )
    assert "nodejs20" in error["message"]
    assert error["details"][0]["value"] == "python3.12"


def test_create_is_503_until_a_worker_has_said_what_it_can_run(client: Client) -> None:
    Runtime.delete().execute()
    response = client.post("/scripts", json=factories.body())
    error_of(response, 503, "WORKSPACE_NOT_READY")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("source", "line", "field"),
    [
        (b"exports.handler = () => {\n  return (;\n};\n", 2, "script_content"),
        (b"\nexports.handler = () => require('fs');\n", 2, "script_content"),
        (b"exports.other = () => 1;\n", None, "entry_point"),
    ],
)
def test_what_the_checks_find_is_400_with_line_and_column(
    client: Client, source: bytes, line: int | None, field: str
) -> None:
    error = error_of(client.post("/scripts", json=factories.body(source=source)), 400, "VALIDATION_FAILED")
    detail = error["details"][0]
    assert detail["field"] == field
    assert detail["line"] == line or line is None
    assert detail["column"] >= 1
    assert not Script.select().exists()


def test_a_source_over_5_mib_is_400(client: Client) -> None:
    error = error_of(
        client.post("/scripts", json=factories.body(source=factories.SOURCE + b"//" + b"x" * (5 * 1024 * 1024))),
        400, "VALIDATION_FAILED",
    )  # fmt: skip
    assert fields_of(error) == {"script_content"}
    assert "5242880" in error["message"]


def test_a_taken_id_is_409_and_changes_nothing(client: Client, hello: Script) -> None:
    before = client.get("/scripts/hello").json
    error_of(client.post("/scripts", json=factories.body(source=OTHER_SOURCE)), 409, "CONFLICT")
    assert client.get("/scripts/hello").json == before


def test_a_taken_hook_path_is_409(client: Client) -> None:
    hook = {"http": {"path": "/orders", "auth": "none"}}
    assert client.post("/scripts", json=factories.body("one-one", triggers=hook)).status_code == 201
    error_of(client.post("/scripts", json=factories.body("two-two", triggers=hook)), 409, "CONFLICT")
    assert client.get("/scripts/two-two").status_code == 404


def test_an_update_changes_only_what_is_given(client: Client) -> None:
    made = client.post(
        "/scripts", json=factories.body(schedule="hourly", tags={"a": "b"}, secrets={"A": "1"}, description="d")
    ).json
    assert made is not None
    response = client.put("/scripts/hello", json={"memory_mb": 512})
    assert response.status_code == 200
    changed = response.json
    assert changed is not None
    assert changed["updated_at"] >= made["updated_at"]
    assert changed == {**made, "memory_mb": 512, "updated_at": changed["updated_at"]}
    assert client.put("/scripts/hello", json={}).status_code == 200


def test_every_field_can_be_updated(client: Client, hello: Script) -> None:
    given: dict[str, Any] = {
        "display_name": "New", "description": "now with text", "entry_point": "exports.handler", "memory_mb": 128,
        "timeout_seconds": 5, "schedule": "rate(6 hours)", "tags": {"x": "y"}, "status": "inactive",
        "time_zone": "Asia/Tokyo", "isolation": "fresh", "max_concurrent_runs": 1, "egress_hosts": [],
        "triggers": {"events": [{"pattern": "a.b"}]},
    }  # fmt: skip
    changed = client.put("/scripts/hello", json=given).json
    assert changed is not None
    assert {name: changed[name] for name in given} == given
    nothing = {"description": None, "egress_hosts": None, "triggers": {}, "schedule": None, "tags": {}}
    cleared = client.put("/scripts/hello", json=nothing).json
    assert cleared is not None
    assert {name: cleared[name] for name in nothing} == nothing | {"description": ""}


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_or_null_schedule_removes_it(client: Client, nothing: str | None) -> None:
    client.post("/scripts", json=factories.body(schedule="daily"))
    changed = client.put("/scripts/hello", json={"schedule": nothing}).json
    assert changed is not None
    assert changed["schedule"] is None
    assert changed["time_zone"] is None
    error_of(client.get("/scripts/hello/schedule"), 404, "NOT_FOUND")


@pytest.mark.parametrize("field", ["id", "runtime", "uuid", "script_version"])
def test_what_never_changes_is_refused_in_an_update(client: Client, hello: Script, field: str) -> None:
    error = error_of(client.put("/scripts/hello", json={field: "nodejs20"}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {field}


@pytest.mark.parametrize("alone", ["script_content", "script_hash"])
def test_content_and_hash_come_together(client: Client, hello: Script, alone: str) -> None:
    given = {alone: factories.upload(OTHER_SOURCE)[alone]}
    error = error_of(client.put("/scripts/hello", json=given), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"script_content", "script_hash"} - {alone}


def test_new_content_makes_a_version_and_the_same_content_does_not(client: Client, hello: Script) -> None:
    same = client.put("/scripts/hello", json=factories.upload(factories.SOURCE)).json
    assert same is not None
    assert same["script_version"] == 1
    new = client.put("/scripts/hello", json=factories.upload(OTHER_SOURCE)).json
    assert new is not None
    assert new["script_version"] == 2
    assert new["script_hash"] == hashlib.sha256(OTHER_SOURCE).hexdigest()
    assert new["script_s3_key"] != same["script_s3_key"]


def test_a_new_entry_point_must_be_exported_by_the_stored_source(client: Client, hello: Script) -> None:
    error = error_of(client.put("/scripts/hello", json={"entry_point": "main"}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"entry_point"}
    both = {"entry_point": "main", **factories.upload("exports.main = () => 1;")}
    changed = client.put("/scripts/hello", json=both).json
    assert changed is not None
    assert (changed["entry_point"], changed["script_version"]) == ("main", 2)


def test_a_refused_update_changes_nothing(client: Client, hello: Script, services: Services) -> None:
    before = client.get("/scripts/hello").json
    given = {**factories.upload(OTHER_SOURCE), "display_name": "New", "schedule": "nonsense"}
    error_of(client.put("/scripts/hello", json=given), 400, "VALIDATION_FAILED")
    assert client.get("/scripts/hello").json == before
    assert len(services.objects.list("scripts/")) == 1


def test_delete_answers_204_without_a_body_and_then_404(client: Client, hello: Script, services: Services) -> None:
    factories.finished(services, hello)
    response = client.delete("/scripts/hello")
    assert (response.status_code, response.data) == (204, b"")
    error_of(client.get("/scripts/hello"), 404, "NOT_FOUND")
    error_of(client.delete("/scripts/hello"), 404, "NOT_FOUND")
    assert services.objects.list("") == []


def test_lists_page_through_everything_once_newest_first(
    client: Client, services: Services, app: Any, alice: Tenant
) -> None:
    for number in range(7):
        factories.script(services, alice, f"script-{number}")
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"/scripts?page_size=3{f'&cursor={cursor}' if cursor else ''}").json
        assert page is not None
        seen += [each["id"] for each in page["scripts"]]
        cursor = page["next_cursor"]
    assert seen == [f"script-{number}" for number in reversed(range(7))]


def test_a_page_that_ends_exactly_has_no_next(client: Client, services: Services, app: Any, alice: Tenant) -> None:
    for number in range(2):
        factories.script(services, alice, f"script-{number}")
    assert client.get("/scripts?page_size=2").json["next_cursor"] is None  # type: ignore[index]


def test_a_page_has_20_unless_said_and_100_at_most(client: Client, services: Services, app: Any, alice: Tenant) -> None:
    for number in range(21):
        factories.script(services, alice, f"script-{number}")
    assert len(client.get("/scripts").json["scripts"]) == 20  # type: ignore[index]
    assert len(client.get("/scripts?page_size=100").json["scripts"]) == 21  # type: ignore[index]


@pytest.mark.parametrize("size", ["0", "101", "-1", "x", "", "1.5", "1e1", "\u0661", "9" * 30])
def test_a_page_size_outside_1_to_100_is_400(client: Client, size: str) -> None:
    error = error_of(client.get("/scripts", query_string={"page_size": size}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"page_size"}


def test_a_misspelt_query_is_refused_and_not_ignored(client: Client) -> None:
    error = error_of(client.get("/scripts?pagesize=5"), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"pagesize"}


def test_a_cursor_of_another_list_is_400(client: Client, services: Services, app: Any, alice: Tenant) -> None:
    for number in range(2):
        script = factories.script(services, alice, f"script-{number}")
        factories.run(services, script)
    cursor = client.get("/scripts?page_size=1").json["next_cursor"]  # type: ignore[index]
    error = error_of(client.get(f"/runs?cursor={cursor}"), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"cursor"}


def test_versions_are_listed_newest_first_in_pages(client: Client, hello: Script) -> None:
    for number in range(2, 5):
        client.put("/scripts/hello", json=factories.upload(f"exports.handler = () => {number};\n"))
    first = client.get("/scripts/hello/versions?page_size=3").json
    assert first is not None
    assert [each["script_version"] for each in first["versions"]] == [4, 3, 2]
    assert set(first["versions"][0]) == {"script_version", "script_hash", "size", "restored_from", "created_at"}
    rest = client.get(f"/scripts/hello/versions?page_size=3&cursor={first['next_cursor']}").json
    assert rest is not None
    assert [each["script_version"] for each in rest["versions"]] == [1]
    assert rest["versions"][0]["size"] == len(factories.SOURCE)
    assert rest["next_cursor"] is None


def test_a_diff_is_unified_text(client: Client, hello: Script) -> None:
    client.put("/scripts/hello", json=factories.upload(OTHER_SOURCE))
    response = client.get("/scripts/hello/versions/2/diff?against=1")
    assert response.status_code == 200
    assert response.mimetype == "text/plain"
    assert response.text.splitlines()[:2] == ["--- hello@1", "+++ hello@2"]
    assert "+exports.handler = async () => 2;" in response.text
    assert client.get("/scripts/hello/versions/2/diff?against=2").text == ""


def test_a_diff_that_would_take_long_is_413(client: Client, hello: Script) -> None:
    source = "exports.handler = () => 1;\n" + "// x\n" * scripts.MAX_DIFF_LINES
    client.put("/scripts/hello", json=factories.upload(source))
    error_of(client.get("/scripts/hello/versions/2/diff?against=1"), 413, "TOO_LARGE")


@pytest.mark.parametrize(
    "path", ["/versions/3/diff?against=1", "/versions/1/diff?against=9", "/versions/x/diff?against=1"]
)
def test_a_diff_of_a_missing_version_is_404(client: Client, hello: Script, path: str) -> None:
    error_of(client.get(f"/scripts/hello{path}"), 404, "NOT_FOUND")


@pytest.mark.parametrize("query", ["", "?against=0", "?against=x", "?against=99999999999999999999"])
def test_a_diff_without_a_sensible_other_is_400(client: Client, hello: Script, query: str) -> None:
    error = error_of(client.get(f"/scripts/hello/versions/1/diff{query}"), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"against"}


def test_a_huge_version_number_is_404(client: Client, hello: Script) -> None:
    error_of(client.get(f"/scripts/hello/versions/{10**30}/diff?against=1"), 404, "NOT_FOUND")
    error_of(client.post("/scripts/hello/rollback", json={"version": 2**31 - 1}), 404, "NOT_FOUND")


def test_a_rollback_is_a_new_version_with_the_old_content(client: Client, hello: Script) -> None:
    client.put("/scripts/hello", json=factories.upload(OTHER_SOURCE))
    response = client.post("/scripts/hello/rollback", json={"version": 1})
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["script_version"] == 3
    assert response.json["script_hash"] == hashlib.sha256(factories.SOURCE).hexdigest()
    newest = client.get("/scripts/hello/versions").json["versions"][0]  # type: ignore[index]
    assert newest["restored_from"] == 1


def test_a_rollback_to_what_the_entry_point_does_not_fit_is_400(client: Client, hello: Script) -> None:
    client.put("/scripts/hello", json={"entry_point": "main", **factories.upload("exports.main = () => 1;")})
    error = error_of(client.post("/scripts/hello/rollback", json={"version": 1}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"entry_point"}
    assert client.get("/scripts/hello").json["script_version"] == 2  # type: ignore[index]


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5, True, 2**31])
def test_a_rollback_to_no_number_is_400(client: Client, hello: Script, version: Any) -> None:
    error = error_of(client.post("/scripts/hello/rollback", json={"version": version}), 400, "VALIDATION_FAILED")
    assert fields_of(error) == {"version"}


# Statuses and types of the house, in this face's words


@pytest.mark.parametrize("before", scripts.STATUS)
@pytest.mark.parametrize("asked", ["active", "inactive"])
def test_a_script_is_active_or_inactive_whatever_the_house_calls_it(
    client: Client, hello: Script, before: str, asked: str
) -> None:
    Script.update(status=before).execute()
    shown = "active" if before == "active" else "inactive"
    read, (listed,) = client.get("/scripts/hello").json, client.get("/scripts").json["scripts"]  # type: ignore[index]
    assert read is not None
    assert (read["status"], listed["status"]) == (shown, shown)
    response = client.put("/scripts/hello", json={"status": asked, "display_name": "New"})
    after = Script.get()
    if asked == "active" and before in ("disabled", "archived"):
        error = error_of(response, 422, "BUSINESS_RULE_VIOLATION")
        assert error["message"] == f"Script 'hello' is {before} and can't become active again."
        assert (after.status, after.display_name) == (before, hello.display_name)
        return
    assert response.status_code == 200 and response.json is not None
    expected = "active" if asked == "active" else "paused" if before == "active" else before
    assert (response.json["status"], after.status, after.display_name) == (asked, expected, "New")


@pytest.mark.parametrize("status", ["draft", "paused", "disabled", "archived", "deleted", "ACTIVE", "", None, 1])
def test_no_other_status_can_be_asked_for(client: Client, hello: Script, status: Any) -> None:
    assert fields_of(error_of(client.put("/scripts/hello", json={"status": status}), 400, "VALIDATION_FAILED"))
    assert Script.get().status == "active"


def test_the_type_follows_what_starts_the_script(client: Client, hello: Script) -> None:
    for change, type_ in (({"schedule": "daily"}, "scheduled"), ({"schedule": ""}, "oneoff"),
                          ({"triggers": {"http": {"path": "/x", "auth": "member"}}}, "http"),
                          ({"triggers": {"events": [{"pattern": "a.b"}]}}, "event"), ({"triggers": {}}, "oneoff")):
        assert client.put("/scripts/hello", json=change).status_code == 200
        assert Script.get().type == type_


def test_a_limit_in_these_units_replaces_the_consoles(client: Client, hello: Script, services: Services) -> None:
    limits = {"timeout_ms": 1_500, "memory_bytes": 300 * 2**20, "output_bytes": 2048}
    scripts.update(services, hello, scripts.Change(limits=limits))
    services.database.close()
    shown = client.get("/scripts/hello").json
    assert shown is not None and (shown["timeout_seconds"], shown["memory_mb"]) == (5, 364)
    client.put("/scripts/hello", json={"display_name": "New"})
    assert Script.get().limits == limits
    client.put("/scripts/hello", json={"timeout_seconds": 60, "memory_mb": 512})
    assert Script.get().limits == {"output_bytes": 2048}


def test_five_fields_need_their_word(client: Client, hello: Script) -> None:
    assert client.put("/scripts/hello", json={"schedule": "crontab(0 9 * * 1-5)"}).status_code == 200
    shown = client.get("/scripts/hello").json
    assert shown is not None and shown["schedule"] == "crontab(0 9 * * 1-5)"
    for bare in ("0 9 * * 1-5", "cron(0 9 * * 1-5)", "crontab(0 9 * * ? *)"):
        error = error_of(client.put("/scripts/hello", json={"schedule": bare}), 400, "VALIDATION_FAILED")
        assert fields_of(error) == {"schedule"}


def test_a_name_that_may_not_repeat_is_refused_as_a_conflict(client: Client, hello: Script, services: Services,
                                                             alice: Tenant) -> None:
    new = scripts.NewScript(None, "Report", "nodejs20", factories.SOURCE, unique_name=True)
    scripts.create(services, alice.id, new)
    other = scripts.create(services, alice.id, scripts.NewScript(None, "Other", "nodejs20", factories.SOURCE,
                                                                 unique_name=True))  # fmt: skip
    services.database.close()
    error_of(client.put(f"/scripts/{other.slug}", json={"display_name": "REPORT"}), 409, "CONFLICT")
    assert client.put("/scripts/hello", json={"display_name": "Report"}).status_code == 200
