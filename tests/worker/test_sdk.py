"""What a script may ask of the platform, with a conversation that is made up: good questions and hostile ones."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace import assignments
from millrace.cache import MemoryCache, Namespace, Quota
from millrace.errors import Unavailable
from millrace.models import Event
from millrace.services import Services
from sandbox.job import CallRefused, Pending
from tests.worker.support import new_script, submit
from tests.world import Clock
from worker import sdk
from worker.sdk import Sdk


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """What is asked of the database is the same on both kinds, and tested where its verbs are."""
    return getattr(request, "param", "sqlite")


class FakeDatabases:
    """Answers every call at once, with what was asked."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.closed = 0

    def session(self, workspace_id: str) -> "FakeDatabases":
        self.sessions.append(workspace_id)
        return self

    def call(self, method: str, params: dict[str, Any]) -> Pending:
        self.calls.append((method, params))
        pending = Pending()
        pending.resolve([method])
        return pending

    def close(self) -> None:
        self.closed += 1


class Asked:
    """One run's SDK, with its clock, its data sources and the lines of its log."""

    def __init__(self, services: Services, limits: dict[str, Any] | None = None, slug: str = "hello") -> None:
        self.clock = Clock()
        self.services = replace(services, clock=self.clock, cache=MemoryCache(self.clock))
        script = new_script(self.services, slug=slug)
        script.limits = limits
        script.save(only=["limits"])
        assignment = assignments.load(submit(self.services, script).id)
        assert assignment is not None
        self.run, self.script = assignment.run, script
        self.databases, self.lines = FakeDatabases(), list[str]()
        self.sdk = Sdk(self.services, assignment, self.databases, self.lines.append)

    def ask(self, method: str, **params: Any) -> Any:
        answer = self.sdk.call(method, params)
        return answer.answer() if isinstance(answer, Pending) else answer

    def refused(self, method: str, **params: Any) -> CallRefused:
        with pytest.raises(CallRefused) as caught:
            self.ask(method, **params)
        assert len(str(caught.value)) < 400
        return caught.value


@pytest.fixture
def asked(local: Services) -> Asked:
    """The SDK of a run of a script without limits of its own."""
    return Asked(local)


# What it answers


def test_the_cache_answers_as_the_sdk_promises(asked: Asked) -> None:
    assert asked.ask("cache.get", key="a") is None
    assert asked.ask("cache.exists", key="a") is False
    assert asked.ask("cache.set", key="a", value={"n": [1, None]}, ttl=60) is True
    assert asked.ask("cache.get", key="a") == {"n": [1, None]}
    assert asked.ask("cache.exists", key="a") is True
    assert asked.ask("cache.increment", key="n") == 1
    assert asked.ask("cache.increment", key="n", delta=-3) == -2
    assert asked.ask("cache.expire", key="n", ttl=60) is True
    assert asked.ask("cache.expire", key="none", ttl=60) is False
    asked.clock.forward(s=60)
    assert [asked.ask("cache.exists", key=key) for key in ("a", "n")] == [False, False]
    assert asked.ask("cache.set", key="b", value=None, ttl=None) is True
    assert asked.ask("cache.exists", key="b") is True
    assert asked.ask("cache.delete", key="b") is True
    assert asked.ask("cache.delete", key="b") is False


def test_a_scripts_cache_lies_under_its_workspace_and_its_script(asked: Asked) -> None:
    asked.ask("cache.set", key="a", value=1)
    assert asked.services.cache.get(Namespace("acme", asked.script.uuid), "a") == 1
    other = Asked(asked.services, slug="other")
    other.sdk._services = asked.services
    assert other.ask("cache.get", key="a") is None


def test_requests_are_allowed_and_statements_handed_on(asked: Asked) -> None:
    assert asked.ask("http.begin") is None
    assert asked.databases.sessions == []
    assert asked.ask("db.query", sql="SELECT 1", params=[]) == ["db.query"]
    assert asked.ask("db.begin") == ["db.begin"]
    assert asked.ask("db.commit", tx="1") == ["db.commit"]
    assert asked.databases.sessions == ["acme"]
    assert asked.databases.calls[0] == ("db.query", {"sql": "SELECT 1", "params": []})


def test_what_is_open_in_a_data_source_is_closed_with_the_run(asked: Asked) -> None:
    asked.sdk.close()
    assert asked.databases.closed == 0
    asked.ask("db.begin")
    asked.sdk.close()
    assert asked.databases.closed == 1


def test_an_event_is_published_as_the_scripts(asked: Asked) -> None:
    answer = asked.ask("events.publish", name="order.made", data={"n": 1}, sdk=True)
    (event,) = Event.select()
    assert answer == {"event_id": event.id}
    assert (event.name, event.data, event.source, event.depth) == ("order.made", {"n": 1}, "hello", 1)


def test_what_was_done_is_counted_and_what_was_not_is_not(asked: Asked) -> None:
    assert asked.sdk.counts() == {}
    asked.ask("http.begin")
    for method in ("db.query", "db.queryOne", "db.execute", "db.begin", "db.commit"):
        asked.ask(method)
    asked.ask("cache.get", key="a")
    asked.refused("cache.get", key="")
    asked.refused("cache.nothing", key="a")
    asked.ask("events.publish", name="order.made")
    asked.refused("events.publish", name="no such name!")
    assert asked.sdk.counts() == {"api_calls": 5, "db_queries": 3, "cache_calls": 1, "events_published": 1}


# Limits


@pytest.mark.parametrize(
    ("method", "params", "rate", "words"),
    [
        ("http.begin", {}, 60, "at most 60 sdk.http requests a minute; try again in 1.0 s."),
        ("db.query", {}, 60, "at most 60 sdk.db calls a minute; try again in 1.0 s."),
        ("cache.get", {"key": "a"}, 120, "at most 120 sdk.cache calls a minute; try again in 0.5 s."),
        ("events.publish", {"name": "a.b", "sdk": True}, 30,
         "at most 30 events.publish events a minute; try again in 2.0 s."),
    ],
)  # fmt: skip
def test_each_api_has_its_rate(asked: Asked, method: str, params: dict[str, Any], rate: int, words: str) -> None:
    for _ in range(rate):
        asked.ask(method, **params)
    refused = asked.refused(method, **params)
    assert str(refused) == f"Rate limit exceeded: {words}"
    assert (refused.code, refused.retry_after_ms) == ("RATE_LIMITED", 60_000 // rate)
    asked.clock.forward(ms=60_000 // rate - 1)
    assert "try again in 0.1 s." in str(asked.refused(method, **params))
    asked.clock.forward(ms=1)
    asked.ask(method, **params)
    asked.refused(method, **params)


def test_rates_are_apart(asked: Asked) -> None:
    for _ in range(60):
        asked.ask("http.begin")
    asked.refused("http.begin")
    asked.ask("db.query")
    asked.ask("cache.get", key="a")


def test_the_older_publish_has_no_rate(asked: Asked) -> None:
    for _ in range(30):
        asked.ask("events.publish", name="a.b", sdk=True)
    asked.refused("events.publish", name="a.b", sdk=True)
    for _ in range(40):
        asked.ask("events.publish", name="a.b")
    assert asked.sdk.counts()["events_published"] == 70


def test_all_events_of_a_run_have_one_bound(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "MAX_PUBLISHED", 3)
    for through_sdk in (True, False, True):
        asked.ask("events.publish", name="a.b", sdk=through_sdk)
    assert str(asked.refused("events.publish", name="a.b")) == "A run can publish 3 events."


def test_a_script_has_its_own_rate_of_api_calls(local: Services) -> None:
    asked = Asked(local, {"api_calls_per_minute": 2})
    for method, things in (("http.begin", "sdk.http requests"), ("db.execute", "sdk.db calls")):
        asked.ask(method)
        asked.ask(method)
        assert f"at most 2 {things} a minute; try again in 30.0 s." in str(asked.refused(method))
    for _ in range(10):
        asked.ask("cache.get", key="a")


def test_a_run_makes_a_hundred_api_calls_whatever_its_rate(local: Services) -> None:
    asked = Asked(local, {"api_calls_per_minute": 10_000})
    for number in range(100):
        asked.ask(("http.begin", "db.query")[number % 2])
    for method in ("http.begin", "db.query", "db.begin"):
        refused = asked.refused(method)
        assert str(refused) == "A run can make at most 100 API calls, of sdk.http and sdk.db together."
        assert (refused.code, refused.retry_after_ms) == ("LIMIT_REACHED", None)
    asked.clock.forward(s=3600)
    asked.refused("http.begin")
    assert asked.sdk.counts()["api_calls"] == 100


def test_a_transaction_can_always_be_ended_but_nothing_else_is_free(asked: Asked) -> None:
    for _ in range(60):
        asked.ask("db.begin")
    asked.refused("db.begin")
    for method in ("db.commit", "db.rollback"):
        for _ in range(60):
            asked.ask(method)
    assert str(asked.refused("db.commit")) == "There is no transaction to end."
    assert asked.sdk.counts() == {"api_calls": 60}


def test_a_full_cache_says_so(asked: Asked) -> None:
    asked.sdk._services = replace(asked.services, cache=MemoryCache(asked.clock, Quota(max_keys=1)))
    asked.ask("cache.set", key="a", value=1)
    refused = asked.refused("cache.set", key="b", value=1)
    assert "at most 16 MiB and 1 keys" in str(refused) and refused.code == "LIMIT_REACHED"


def test_a_cache_that_is_away_is_a_refusal_without_its_reason(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(MemoryCache):
        def get(self, namespace: Namespace, key: str) -> Any:
            raise Unavailable("Redis at 10.1.2.3 does not answer")

    asked.sdk._services = replace(asked.services, cache=Away(asked.clock))
    refused = asked.refused("cache.get", key="a")
    assert (str(refused), refused.code) == ("The platform could not reach the cache now.", "UNAVAILABLE")
    assert "10.1.2.3" in caplog.text
    assert asked.sdk.counts() == {}


# Hostile


HOSTILE: list[Any] = [
    None, True, 0, -1, 1.5, 2**63, 10**4000, float("nan"), float("inf"), "", "x" * 256 * 1024, "\x00", "\ud800",
    "\u202e\U0001f600", [], [[]], {}, {"key": "a"}, "__proto__", "a\nb",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_sent_is_answered_or_refused_in_few_words(asked: Asked, hostile: Any) -> None:
    for method in sorted(sdk._METHODS):
        for params in (
            {}, {"key": hostile}, {"key": "a", "value": hostile}, {"key": "a", "value": 1, "ttl": hostile},
            {"key": "a", "delta": hostile}, {"name": hostile, "sdk": hostile}, {"name": "a.b", "data": hostile},
            {"name": "a.b", "subject": hostile}, {"sql": hostile, "params": hostile},
        ):  # fmt: skip
            asked.clock.forward(s=10)
            try:
                asked.ask(method, **params)
            except CallRefused as refused:
                assert 0 < len(str(refused)) < 600
                assert "Traceback" not in str(refused)


@pytest.mark.parametrize("method", ["", "cache", "cache.", "cache.flush", "db.drop", "http.end", "__init__", "x" * 100])
def test_there_are_no_other_methods(asked: Asked, method: str) -> None:
    assert str(asked.refused(method, key="a")) == f"There is no method '{method}'."


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("cache.get", {}, "A cache key must be given."),
        ("cache.set", {"key": "a"}, "A value to cache must be given."),
        ("cache.set", {"key": "a", "value": 1, "ttl": 0}, "whole seconds from 1 to 31536000, not 0."),
        ("cache.expire", {"key": "a"}, "whole seconds from 1 to 31536000, not null."),
        ("cache.increment", {"key": "a", "delta": None}, "a whole number of 64 bits"),
        ("db.rollback", {}, "There is no transaction to end."),
        ("events.publish", {"name": 5}, "name and subject must be text"),
    ],
)
def test_what_is_wrong_is_named(asked: Asked, method: str, params: dict[str, Any], words: str) -> None:
    refused = asked.refused(method, **params)
    assert words in str(refused) and refused.code == "INVALID_ARGUMENT"


def test_too_large_a_value_is_named_with_its_size(asked: Asked) -> None:
    refused = asked.refused("cache.set", key="a", value="x" * 256 * 1024)
    assert str(refused) == "A cached value is at most 65536 bytes of JSON; this one is 262146."
    assert refused.code == "TOO_LARGE"


def test_questions_that_are_refused_use_up_their_rate(asked: Asked) -> None:
    for _ in range(120):
        asked.refused("cache.get", key="")
    assert asked.refused("cache.get", key="a").code == "RATE_LIMITED"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=8,
)
NAMES = st.sampled_from(["key", "value", "ttl", "delta", "name", "data", "subject", "sdk", "sql", "params", "tx"])


@given(calls=st.lists(st.tuples(st.sampled_from(sorted(sdk._METHODS)), st.dictionaries(NAMES, JSON)), max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_breaks_the_answering(asked: Asked, calls: list[tuple[str, dict[str, Any]]]) -> None:
    for method, params in calls:
        asked.clock.forward(s=10)
        try:
            asked.ask(method, **params)
        except CallRefused as refused:
            assert str(refused)
