"""The pages of scripts: the list, the form, the details."""

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playhouse.shortcuts import model_to_dict

from millrace import scriptlimits, scripts
from millrace.models import Hook, Run, Schedule, Script, Subscription, User, Version
from millrace.retries import Policy
from millrace.services import Services
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from tests import factories
from tests.factories import Tenant
from tests.web.console.conftest import FRAGMENT, csrf_token, post

BROKEN = "exports.handler = async ( => {};\n"
SOURCE = factories.SOURCE.decode()
EVIL = "<script>alert(1)</script>"


def form(**fields: Any) -> dict[str, Any]:
    """The fields of a valid form, and these."""
    return {"Name": "Send invoices", "Source": SOURCE, "Type": "oneoff", "Status": "active", **fields}


def created(browser: FlaskClient, **fields: Any) -> str:
    """The address of a new script."""
    answer = post(browser, "/scripts", **form(**fields))
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


@pytest.fixture
def stored(services: Services) -> Callable[[str], Script]:
    """Reads a script by its address."""

    def read(address: str) -> Script:
        with services.database.connection_context():
            return Script.get_by_id(address.rsplit("/", 1)[1])

    return read


# Who may look


@pytest.mark.parametrize("path", ["/scripts", "/scripts/new", "/scripts/x", "/scripts/x/edit", "/scripts/x/executions"])
def test_who_is_not_signed_in_is_led_to_the_sign_in_and_back(app: Flask, path: str) -> None:
    answer = app.test_client().get(path)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/login?next={path}")


def test_htmx_is_told_to_go_to_the_sign_in(app: Flask) -> None:
    answer = app.test_client().get("/scripts", headers=FRAGMENT)
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.text) == (401, "/login", "")


def test_a_client_that_wants_json_gets_its_401_as_json(app: Flask) -> None:
    answer = app.test_client().get("/scripts", headers={"Accept": "application/json"})
    assert answer.status_code == 401 and answer.json is not None
    assert answer.json["error"]["code"] == "UNAUTHORIZED"


def test_a_viewer_sees_scripts_and_no_way_to_change_them(
    browser_as: Callable[[str], FlaskClient], browser: FlaskClient
) -> None:
    address = created(browser)
    viewer = browser_as("viewer")
    for path in ("/scripts", address):
        page = viewer.get(path).text
        assert "Send invoices" in page
        for way in ("/scripts/new", f"{address}/edit", "/execute", "DELETE", "Pause"):
            assert way not in page, way


@pytest.mark.parametrize(("role", "method", "path"), [
    ("viewer", "GET", "/scripts/new"), ("viewer", "POST", "/scripts"), ("viewer", "GET", "{}/edit"),
    ("viewer", "PUT", "{}"), ("viewer", "DELETE", "{}"), ("viewer", "POST", "{}/status"),
    ("developer", "GET", "{}/edit"), ("developer", "PUT", "{}"), ("developer", "DELETE", "{}"),
])
def test_what_a_role_does_not_allow_is_403(
    browser_as: Callable[[str], FlaskClient], browser: FlaskClient, role: str, method: str, path: str
) -> None:
    address = created(browser)
    somebody = browser_as(role)
    answer = somebody.open(path.format(address), method=method, data=form(),
                           headers={"X-CSRF-Token": csrf_token(somebody)})
    assert answer.status_code == 403
    assert "You may not do this" in answer.text
    assert browser.get(address).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_form_without_its_token_changes_nothing(browser: FlaskClient, services: Services, method: str) -> None:
    path = "/scripts" if method == "POST" else created(browser)
    answer = browser.open(path, method=method, data=form(Name="Another"))
    assert answer.status_code == 403
    with services.database.connection_context():
        assert [each.display_name for each in Script.select()] == ([] if method == "POST" else ["Send invoices"])


def test_another_workspaces_script_is_as_one_that_is_not_there(
    browser: FlaskClient, foreign_browser: FlaskClient
) -> None:
    address = created(browser)
    for path in (address, f"{address}/edit", "/scripts/nothing", "/scripts/00000000-0000-7000-8000-000000000000"):
        assert foreign_browser.get(path).status_code == 404, path
    token = csrf_token(foreign_browser)
    assert foreign_browser.delete(address, headers={"X-CSRF-Token": token}).status_code == 404
    assert foreign_browser.put(address, data=form(), headers={"X-CSRF-Token": token}).status_code == 404
    assert "Send invoices" not in foreign_browser.get("/scripts").text
    assert browser.get(address).status_code == 200


# The list


def test_an_empty_list_invites_to_create_the_first(
    browser: FlaskClient, browser_as: Callable[[str], FlaskClient]
) -> None:
    assert "Create your first script" in browser.get("/scripts").text
    assert "Create your first script" not in browser_as("viewer").get("/scripts").text


def test_a_search_without_a_match_offers_to_clear_the_filters(browser: FlaskClient) -> None:
    created(browser)
    page = browser.get("/scripts?search=nothing+like+it").text
    assert "Clear filters" in page and '<td class="name">' not in page


def test_the_list_is_searched_and_filtered(browser: FlaskClient) -> None:
    created(browser, Name="Send invoices", Description="to customers")
    created(browser, Name="Clean up", Type="scheduled", CronExpression="0 3 * * *")
    created(browser, Name="Draft of mine", Status="draft")

    def names(query: str) -> list[str]:
        found = re.findall(r'<td class="name"><a href="[^"]+">([^<]+)</a>', browser.get(f"/scripts?{query}").text)
        return sorted(found)

    assert names("") == ["Clean up", "Draft of mine", "Send invoices"]
    assert names("search=INVOICE") == ["Send invoices"]
    assert names("search=customers") == ["Send invoices"]
    assert names("type=scheduled") == ["Clean up"]
    assert names("status=draft") == ["Draft of mine"]
    assert names("search=%25&type=") == []
    assert names("type=nonsense&status=nonsense") == ["Clean up", "Draft of mine", "Send invoices"]


def test_htmx_gets_the_list_alone(browser: FlaskClient) -> None:
    created(browser)
    answer = browser.get("/scripts?search=send", headers=FRAGMENT)
    assert answer.text.strip().startswith('<section id="list"') and "<html" not in answer.text
    assert "HX-Request" in answer.headers["Vary"]
    for header in ({"HX-Boosted": "true"}, {"HX-History-Restore-Request": "true"}):
        assert "<html" in browser.get("/scripts", headers={**FRAGMENT, **header}).text


def test_the_list_comes_in_pages(browser: FlaskClient, services: Services, alice: Tenant) -> None:
    with services.database.connection_context():
        for number in range(25):
            factories.script(services, alice, f"script-{number:02}")
    first = browser.get("/scripts").text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert first.count('<td class="name">') == 20 and following is not None
    second = browser.get(following[1].replace("&amp;", "&")).text
    assert second.count('<td class="name">') == 5 and 'rel="next"' not in second
    assert browser.get("/scripts?cursor=nonsense").status_code == 400


def test_names_are_text_wherever_they_stand(browser: FlaskClient) -> None:
    address = created(browser, Name=EVIL, Description=EVIL)
    for path in ("/scripts", address, f"{address}/edit"):
        page = browser.get(path).text
        assert EVIL not in page and "&lt;script&gt;alert(1)" in page, path


# The form


def test_a_new_script_is_as_the_form_says(
    browser: FlaskClient, stored: Callable[[str], Script], services: Services
) -> None:
    address = created(browser, Description="Monthly", MaxExecutionTimeMs="1500", MaxMemoryBytes="33554432",
                      MaxConcurrentRuns="3", MaxAPICallsPerMinute="30", MaxOutputSizeBytes="2048")
    script = stored(address)
    assert (script.display_name, script.description, script.type, script.status) == (
        "Send invoices", "Monthly", "oneoff", "active")
    assert script.slug == "send-invoices"
    assert script.limits == {"timeout_ms": 1500, "memory_bytes": 33554432, "api_calls_per_minute": 30,
                             "output_bytes": 2048}
    assert script.max_concurrent_runs == 3
    with services.database.connection_context():
        assert script.created_by == User.get().id == Version.get().created_by
    assert "was created" in browser.get(address).text


def test_a_script_is_a_draft_unless_the_form_says_otherwise(
    browser: FlaskClient, stored: Callable[[str], Script]
) -> None:
    answer = post(browser, "/scripts", Name="Quiet one", Source=SOURCE, Type="embedded")
    script = stored(answer.headers["Location"])
    assert (script.status, script.type, script.max_concurrent_runs) == ("draft", "embedded", 5)


def test_each_type_starts_by_what_belongs_to_it(browser: FlaskClient, services: Services) -> None:
    created(browser, Name="At night", Type="scheduled", CronExpression="30 2 * * 1-5", TimeZone="Asia/Tashkent",
            HTTPPath="/ignored", EventTypes="ignored.event")
    created(browser, Name="By request", Type="http", HTTPPath="/orders", **{"HTTPMethods[]": ["GET", "POST"]})
    created(browser, Name="By event", Type="event", EventTypes="order.created\norder.paid, invoice.**")
    with services.database.connection_context():
        schedule, hook = Schedule.get(), Hook.get()
        assert (schedule.expression, schedule.time_zone) == ("crontab(30 2 * * 1-5)", "Asia/Tashkent")
        assert (hook.path, hook.methods, hook.auth) == ("/orders", ["GET", "POST"], "member")
        assert [each.pattern for each in Subscription.select()] == ["order.created", "order.paid", "invoice.**"]


@pytest.mark.parametrize(("fields", "field"), [
    ({"Name": ""}, "Name"), ({"Name": "ab"}, "Name"), ({"Name": "x" * 101}, "Name"), ({"Name": "a\x00bc"}, "Name"),
    ({"Description": "x" * 501}, "Description"), ({"Source": ""}, "Source"), ({"Source": BROKEN}, "Source"),
    ({"Source": "exports.handler = async () => { require('fs') };"}, "Source"),
    ({"Source": "x" * (100 * 1024 + 1)}, "Source"), ({"Type": "nonsense"}, "Type"), ({"Type": ""}, "Type"),
    ({"Status": "paused"}, "Status"), ({"Status": "nonsense"}, "Status"), ({"Runtime": "cobol"}, "Runtime"),
    ({"Type": "scheduled"}, "CronExpression"), ({"Type": "scheduled", "CronExpression": "* * * *"}, "CronExpression"),
    ({"Type": "scheduled", "CronExpression": "99 * * * *"}, "CronExpression"),
    ({"Type": "scheduled", "CronExpression": "0 1 * * *", "TimeZone": "Mars/Olympus"}, "TimeZone"),
    ({"Type": "http", "HTTPMethods": "GET"}, "HTTPPath"), ({"Type": "http", "HTTPPath": "/a"}, "HTTPMethods"),
    ({"Type": "http", "HTTPPath": "orders", "HTTPMethods": "GET"}, "HTTPPath"),
    ({"Type": "http", "HTTPPath": "/a b", "HTTPMethods": "GET"}, "HTTPPath"),
    ({"Type": "http", "HTTPPath": "/a", "HTTPMethods": "BREW"}, "HTTPMethods"),
    ({"Type": "event"}, "EventTypes"), ({"Type": "event", "EventTypes": "Not A Name"}, "EventTypes"),
    ({"MaxExecutionTimeMs": "999"}, "MaxExecutionTimeMs"), ({"MaxExecutionTimeMs": "300001"}, "MaxExecutionTimeMs"),
    ({"MaxMemoryBytes": "536870913"}, "MaxMemoryBytes"), ({"MaxMemoryBytes": "1e9"}, "MaxMemoryBytes"),
    ({"MaxConcurrentRuns": "0"}, "MaxConcurrentRuns"), ({"MaxOutputSizeBytes": "-1"}, "MaxOutputSizeBytes"),
    ({"MaxAPICallsPerMinute": "٣"}, "MaxAPICallsPerMinute"), ({"MaxRetries": "21"}, "MaxRetries"),
])
def test_a_broken_rule_is_said_beside_its_field_and_the_form_keeps_what_was_typed(
    browser: FlaskClient, services: Services, fields: dict[str, str], field: str
) -> None:
    answer = post(browser, "/scripts", **{**form(Description="Kept as typed"), **fields})
    assert answer.status_code == 400, answer.text
    # The field's own error, or its fieldset's.
    wrong = re.findall(r'class="field wrong" id="field-([A-Za-z]+)"', answer.text)
    assert field in wrong
    if "Description" not in fields:
        assert "Kept as typed" in answer.text
    with services.database.connection_context():
        assert Script.select().count() == Version.select().count() == 0


def test_a_broken_source_is_marked_in_the_editor(browser: FlaskClient) -> None:
    page = post(browser, "/scripts", **form(Source=BROKEN)).text
    assert re.search(r"data-findings='\[\{[^']*&#34;line&#34;: 1|data-findings='\[\{[^']*\"line\": 1", page)
    assert "Line 1, column" in page


@pytest.mark.parametrize(("fields", "field"), [
    ({"Name": "SEND invoices"}, "Name"), ({"Name": "Other", "Type": "http", "HTTPPath": "/orders",
                                           "HTTPMethods": "POST"}, "HTTPPath"),
])
def test_a_taken_name_or_path_is_409_on_the_form(
    browser: FlaskClient, services: Services, fields: dict[str, str], field: str
) -> None:
    created(browser, Type="http", HTTPPath="/orders", HTTPMethods="GET")
    answer = post(browser, "/scripts", **form(**fields))
    assert answer.status_code == 409
    assert f'value="{fields["Name"]}"' in answer.text
    assert "exists already" in answer.text or "has the path" in answer.text
    with services.database.connection_context():
        assert Script.select().count() == 1


def test_a_form_beyond_all_bounds_is_413(browser: FlaskClient) -> None:
    assert post(browser, "/scripts", **form(Source="x" * 2_000_000)).status_code == 413


@pytest.mark.parametrize("source", [
    "return { ok: true };", "console.log('hello')", "sdk.log.info('hi');", "throw new Error('x');",
    "const answer = await sdk.http.get('https://example.com');\nreturn answer.status;", "// nothing but a comment",
])
def test_a_source_that_exports_nothing_is_the_body_of_a_handler(browser: FlaskClient, source: str) -> None:
    address = created(browser, Source=source)
    assert html.escape(source, quote=False).replace("'", "&#39;") in browser.get(f"{address}/edit").text
    post(browser, address, _method="PUT", Source=SOURCE)
    rolled = post(browser, f"{address}/versions/1/rollback")
    assert rolled.status_code == 303, rolled.text


@pytest.mark.parametrize(("source", "line", "column"), [
    ("const = 1;", 1, 7), ("return 1;\nconst = 1;", 2, 7), ("return 1;\n} else {", 2, 3),
    ("exports.handlr = async () => 1;", 1, 1), ("module.exports.other = 1;", 1, 1), ("return require('fs');", 1, 16),
    ("\\u0065xports.other = 1;", 1, 1),
])
def test_what_is_wrong_in_a_body_is_said_at_its_place(
    browser: FlaskClient, source: str, line: int, column: int
) -> None:
    answer = post(browser, "/scripts", **form(Source=source))
    assert answer.status_code == 400
    assert f"Line {line}, column {column}:" in answer.text


def test_limits_that_are_left_empty_are_the_usual_ones(
    browser: FlaskClient, stored: Callable[[str], Script]
) -> None:
    for name, fields in (("Without them", {}), ("Left empty", {"MaxMemoryBytes": "", "MaxOutputSizeBytes": " "})):
        limits = scriptlimits.of(stored(created(browser, Name=name, **fields)))
        assert (limits.timeout_ms, limits.memory_bytes, limits.api_calls_per_minute, limits.output_bytes) == (
            30000, 67108864, 60, 1048576)


def test_schedules_of_the_console_skip_what_would_overlap(browser: FlaskClient, services: Services) -> None:
    created(browser, Type="scheduled", CronExpression="* * * * *")
    later = created(browser, Name="Later")
    post(browser, later, _method="PUT", Type="scheduled", CronExpression="* * * * *")
    with services.database.connection_context():
        assert [each.overlap for each in Schedule.select()] == ["skip", "skip"]
        Schedule.update(overlap="allow").execute()
    post(browser, later, _method="PUT", CronExpression="1 * * * *")
    with services.database.connection_context():
        assert [each.overlap for each in Schedule.select()] == ["allow", "allow"]


def test_methods_may_stand_in_one_field(browser: FlaskClient, services: Services) -> None:
    created(browser, Type="http", HTTPPath="/orders", HTTPMethods="get, POST")
    with services.database.connection_context():
        assert Hook.get().methods == ["GET", "POST"]


def test_toasts_that_nobody_sees_do_not_fill_the_cookie(browser: FlaskClient) -> None:
    token = {"X-CSRF-Token": csrf_token(browser)}
    for number in range(12):
        browser.post("/scripts", data=form(Name=f"Script number {number}"), headers=token)
    page = browser.get("/scripts").text
    assert page.count('class="toast success"') == 5 and "Script number 11" in page


# Changing


@pytest.mark.parametrize("way", ["PUT", "POST"])
def test_a_change_of_source_makes_a_version_and_the_toast_names_it(
    browser: FlaskClient, stored: Callable[[str], Script], services: Services, way: str
) -> None:
    address = created(browser)
    fields = form(Name="Send invoices", Source=SOURCE + "// more\n", ChangeNote="More of it")
    if way == "POST":
        fields["_method"] = "PUT"
    answer = browser.open(address, method=way, data=fields, headers={"X-CSRF-Token": csrf_token(browser)})
    assert (answer.status_code, answer.headers["Location"]) == (303, address)
    assert stored(address).version == 2
    assert "Saved as version 2" in browser.get(address).text
    with services.database.connection_context():
        assert Version.get(Version.number == 2).note == "More of it"


def test_the_same_source_makes_no_version(browser: FlaskClient, stored: Callable[[str], Script]) -> None:
    address = created(browser)
    post(browser, address, _method="PUT", **form(Description="New words", Source=SOURCE.replace("\n", "\r\n")))
    assert (stored(address).version, stored(address).description) == (1, "New words")


def test_fields_that_were_not_sent_stay(browser: FlaskClient, stored: Callable[[str], Script]) -> None:
    address = created(browser, Type="event", EventTypes="a.b", MaxExecutionTimeMs="2000", Description="Words")
    post(browser, address, _method="PUT", Name="Renamed")
    script = stored(address)
    assert (script.display_name, script.description, script.type, script.status, script.version) == (
        "Renamed", "Words", "event", "active", 1)
    assert script.limits["timeout_ms"] == 2000


def test_what_only_the_api_can_say_survives_an_edit(
    browser: FlaskClient, services: Services, alice: Tenant
) -> None:
    source = b"\nexports.handler = async () => 1;\r\n" + b"// " + b"x" * 120_000
    with services.database.connection_context():
        script = factories.script(
            services, alice, "by-api", source=source, memory_mb=1024, timeout_seconds=900, isolation="fresh",
            egress_hosts=["example.com"], tags={"team": "a"}, schedule="rate(5 minutes)",
            retry={"count": 2, "delay_seconds": 60}, concurrency={"key": "a.b", "limit": 1},
            schedule_policy={"overlap": "skip"},
            triggers=Triggers(events=[EventTrigger("a.*", {"data": {"x": [1]}})],
                              http=HttpTrigger("/in", ["POST"], "signature", "github", "s" * 20, "async")),
        )  # fmt: skip
        Script.update(display_name="ab", description="d" * 900).execute()
    page = browser.get(f"/scripts/{script.uuid}/edit").text
    values = {name: html.unescape(text) for name, text in re.findall(r'name="([A-Za-z]+)"[^>]*? value="([^"]*)"', page)}
    area = re.search(r'name="Source"[^>]*>\n(.*?)</textarea>', page, re.S)
    assert area is not None
    fields = {name: values[name] for name in (
        "Name", "CronExpression", "TimeZone", "HTTPPath", "MaxExecutionTimeMs", "MaxMemoryBytes", "MaxConcurrentRuns",
        "MaxAPICallsPerMinute", "MaxOutputSizeBytes", "MaxRetries", "Version",
    )}  # fmt: skip
    with services.database.connection_context():
        before = model_to_dict(Script.get(), recurse=False)
        others = [list(each.select().dicts()) for each in (Schedule, Hook, Subscription)]
    answer = post(browser, f"/scripts/{script.uuid}", _method="PUT", Type="scheduled", Status="active",
                  Source=html.unescape(area[1]), Description="d" * 900, ChangeNote="nothing", **fields)
    assert answer.status_code == 303, answer.text
    with services.database.connection_context():
        after = model_to_dict(Script.get(), recurse=False)
        kept = [list(each.select().dicts()) for each in (Schedule, Hook, Subscription)]
    assert {**after, "updated_at": 0} == {**before, "updated_at": 0}
    for rows in (*kept, *others):
        for row in rows:
            row.pop("id", None)
    assert kept == others


def test_event_scripts_are_tried_again_unless_the_form_says_no(
    browser: FlaskClient, stored: Callable[[str], Script]
) -> None:
    policy = stored(created(browser, Name="Usual", Type="event", EventTypes="a.b")).retry
    assert [Policy.of(policy).delay_ms("run", number) for number in range(3)] == [2000, 4000, 8000]  # type: ignore[union-attr]
    assert policy["count"] == 3
    assert stored(created(browser, Name="Never", Type="event", EventTypes="a.b", MaxRetries="0")).retry is None
    assert stored(created(browser, Name="By hand")).retry is None
    assert stored(created(browser, Name="Often", MaxRetries="5")).retry["count"] == 5


def test_another_type_drops_what_belonged_to_the_one_before(browser: FlaskClient, services: Services) -> None:
    address = created(browser, Type="scheduled", CronExpression="0 1 * * *")
    post(browser, address, _method="PUT", **form(Type="http", HTTPPath="/x", HTTPMethods="GET"))
    with services.database.connection_context():
        assert (Schedule.select().count(), Hook.select().count()) == (0, 1)
    post(browser, address, _method="PUT", **form(Type="oneoff"))
    with services.database.connection_context():
        assert Hook.select().count() == 0


def test_what_somebody_saved_meanwhile_is_not_overwritten(
    browser: FlaskClient, stored: Callable[[str], Script]
) -> None:
    address = created(browser)
    post(browser, address, _method="PUT", **form(Source=SOURCE + "// first\n", Version="1"))
    answer = post(browser, address, _method="PUT", **form(Source=SOURCE + "// second\n", Version="1"))
    assert answer.status_code == 409 and "// second" in answer.text
    assert stored(address).version == 2


def test_the_edit_form_shows_what_is_stored(browser: FlaskClient) -> None:
    address = created(browser, Type="scheduled", CronExpression="5 4 * * *", TimeZone="Europe/Berlin",
                      MaxMemoryBytes="33554432")
    page = browser.get(f"{address}/edit").text
    for text in ('value="Send invoices"', 'value="5 4 * * *"', 'value="Europe/Berlin"', 'value="33554432"',
                 'name="_method" value="PUT"'):
        assert text in page


@pytest.mark.parametrize("method", ["", "GET", "PATCH", "nonsense"])
def test_an_override_that_means_nothing_is_400(browser: FlaskClient, method: str) -> None:
    assert post(browser, created(browser), _method=method, **form()).status_code == 400


@pytest.mark.parametrize(("path", "answers"), [
    (["paused", "active", "disabled", "archived"], [303, 303, 303, 303]), (["draft"], [409]), (["archived"], [409]),
    (["disabled", "active"], [303, 409]), (["disabled", "archived", "active"], [303, 303, 409]), (["nonsense"], [400]),
])
def test_statuses_change_as_allowed(browser: FlaskClient, path: list[str], answers: list[int]) -> None:
    address = created(browser)
    assert [post(browser, f"{address}/status", Status=each).status_code for each in path] == answers


# Deleting


def test_htmx_takes_the_row_of_a_deleted_script_away(browser: FlaskClient, services: Services) -> None:
    address = created(browser)
    answer = browser.delete(address, headers={**FRAGMENT, "X-CSRF-Token": csrf_token(browser)})
    assert (answer.status_code, answer.text) == (200, "")
    assert "was deleted" in answer.headers["HX-Trigger"]
    assert browser.get(address).status_code == 404


def test_a_plain_form_deletes_and_comes_back_to_the_list(browser: FlaskClient) -> None:
    address = created(browser)
    answer = post(browser, address, _method="DELETE")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/scripts")
    assert "was deleted" in browser.get("/scripts").text
    assert post(browser, address, _method="DELETE").status_code == 404


# The details


def test_the_details_show_the_source_the_facts_and_the_last_executions(
    browser: FlaskClient, services: Services
) -> None:
    address = created(browser, Type="http", HTTPPath="/orders", HTTPMethods="POST", Description="Of orders")
    with services.database.connection_context():
        script = scripts.find("alice", "send-invoices")
        run = factories.finished(services, script)
    page = browser.get(address).text
    for text in ("Of orders", "message: &#39;hello&#39;", "/api/scripts/orders", run.id, "send-invoices", script.uuid):
        assert text in page, text
    assert browser.get("/scripts/send-invoices").status_code == 200


def test_every_page_forbids_what_others_could_slip_in(browser: FlaskClient) -> None:
    policy = browser.get("/scripts").headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    page = browser.get("/scripts").text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page) and " onclick=" not in page
    assert not re.search(r"(src|href)=\"https?://", page)


def test_no_run_is_started_by_looking(browser: FlaskClient, services: Services) -> None:
    address = created(browser)
    for path in ("/scripts", address, f"{address}/edit"):
        browser.get(path)
    with services.database.connection_context():
        assert Run.select().count() == 0
