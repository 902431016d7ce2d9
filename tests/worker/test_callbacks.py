"""Telling the ends of runs: how one is posted, and how a worker carries many on real receivers and databases."""

import base64
import dataclasses
import ipaddress
import itertools
import json
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import peewee
import pytest

from millrace import callbacks, ids, runs, scripts, signatures, workspaces
from millrace.callbacks import LEASE_MS, PER_WORKSPACE
from millrace.models import Callback, Run, Script, Workspace
from millrace.runs import Order
from millrace.services import Services
from millrace.settings import SettingError
from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy
from tests.sandbox.egress_support import free_port, make_authority
from tests.worker.receiver import Receiver, receiving
from tests.worker.support import eventually, new_script
from worker import posting
from worker.callbacks import AT_ONCE, Deliverer
from worker.posting import Answer, Look, Post, Poster

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
LOOPBACK = Policy.from_json({"allow": ["127.0.0.0/8"]})
STRICT = Policy()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who wants to be told."""
    with receiving() as made:
        yield made


def names(**known: Sequence[str]) -> Look:
    """A resolver whose answers a test chooses; `_` stands for a dot."""

    def look(name: str) -> list[IPAddress]:
        found = known.get(name.replace(".", "_"))
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [ipaddress.ip_address(each) for each in found]

    return look


@contextmanager
def poster(policy: Policy = LOOPBACK, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Poster]:
    made = Poster(policy, tls or ssl.create_default_context(), **options)
    try:
        yield made
    finally:
        made.close()


def post(url: str, policy: Policy = LOOPBACK, tls: ssl.SSLContext | None = None, **options: Any) -> Answer:
    """What comes of posting once."""
    answers: queue.Queue[Answer] = queue.Queue()
    over = threading.Event()
    with poster(policy, tls, **options) as one:
        one.submit(Post(url, {"webhook-id": "msg_1"}, b'{"a":1}'), answers.put, over.set)
        answer = answers.get(timeout=20)
        assert over.wait(20)
    assert answers.empty()
    return answer


# One post


def test_a_post_brings_its_body_and_headers_and_is_answered(receiver: Receiver) -> None:
    answer = post(receiver.url("/ok?a=b"))
    assert (answer.status, answer.error, answer.refused) == (200, None, False)
    assert 0 <= answer.duration_ms < 10_000
    (told,) = receiver.told
    assert (told.path, told.body) == ("/ok?a=b", b'{"a":1}')
    assert told.headers == {
        "host": f"127.0.0.1:{receiver.port}", "user-agent": "Millrace", "content-type": "application/json",
        "content-length": "7", "connection": "close", "webhook-id": "msg_1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/status/204", 204, None), ("/status/299", 299, None), ("/interim", 204, None), ("/chunked", 200, None),
        ("/status/404", 404, "answered 404"), ("/status/500", 500, "answered 500"),
        ("/status/304", 304, "answered 304"), ("/status/410", 410, "answered 410"),
        ("/garbage", None, "the answer is not HTTP/1.1"),
        ("/half", None, "the answer is not HTTP/1.1, or broke off"),
        ("/nothing", None, "the connection was closed without an answer"),
        ("/headers", None, "the head of the answer is longer than 65536 bytes"),
        ("/early", None, "more than 10 interim answers"),
    ],
)  # fmt: skip
def test_only_the_status_of_the_answer_counts(
    receiver: Receiver, path: str, status: int | None, error: str | None
) -> None:
    answer = post(receiver.url(path))
    assert (answer.status, answer.error, answer.refused) == (status, error, False)


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    assert post(receiver.url("/redirect")).error == "answered 307"
    assert [told.path for told in receiver.told] == ["/redirect"]


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_the_time_limit_is_for_the_whole(receiver: Receiver, path: str) -> None:
    begun = time.monotonic()
    answer = post(receiver.url(path), timeout_s=0.5)
    assert answer.error == "no answer within 0.5 s"
    assert time.monotonic() - begun < 5


def test_a_handshake_that_does_not_end_is_under_the_limit_as_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert post(url, timeout_s=0.3).error in ("no answer within 0.3 s", "could not connect: ETIMEDOUT")


def test_of_an_answer_without_end_little_is_read(receiver: Receiver) -> None:
    assert post(receiver.url("/endless")).status == 200
    eventually(lambda: receiver.sent > 0)
    stopped_at = -1
    while stopped_at != receiver.sent:
        stopped_at = receiver.sent
        receiver.release.wait(0.2)
    assert receiver.sent < 16 * 2**20  # what buffers on the way took


def test_an_answer_that_was_given_counts_though_its_body_does_not_end(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "_REST_S", 2.2)
    assert post(receiver.url("/open"), timeout_s=2.0).error is None


def test_nobody_listens() -> None:
    answer = post(f"http://127.0.0.1:{free_port()}/")
    assert (answer.status, answer.error, answer.refused) == (None, "could not connect: ECONNREFUSED", False)


def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(receiver.url()).status == 200
        assert (len(receiver.told), len(proxy.told)) == (1, 0)


# Where it may go


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/", "loopback address"), ("http://[::1]/", "loopback address"),
        ("http://10.1.2.3/", "private address"), ("http://169.254.169.254/latest/meta-data", "link-local address"),
        ("http://[::ffff:127.0.0.1]/", "IPv4-mapped address"), ("http://[fd00::1]:8080/", "private address"),
        ("http://168.63.129.16/", "cloud metadata address"), ("http://0.0.0.0/", "unspecified address"),
        ("http://inside.test/", "private address"), ("http://both.test/", "private address"),
        ("http://93.184.216.34:25/", "port 25 belongs to another protocol than HTTP"),
        ("ftp://93.184.216.34/", "the URL must begin with http:// or https:// and a host"),
        ("http://127.1/", "the URL must name a host as example.com, 192.0.2.1 or [2001:db8::1], with or without :port"),
    ],
)  # fmt: skip
def test_what_scripts_may_not_reach_is_refused_without_a_connection(url: str, reason: str) -> None:
    look = names(inside_test=["192.168.1.1"], both_test=["93.184.216.34", "10.0.0.1"])
    answer = post(url, STRICT, look=look, timeout_s=5)
    # A name may have another address the next time.
    assert (answer.status, answer.error, answer.refused) == (None, f"refused: {reason}", ".test" not in url)


def test_an_address_of_loopback_is_refused_unless_the_operator_allows_it(receiver: Receiver) -> None:
    assert post(receiver.url(), STRICT).refused
    assert receiver.told == []
    allowed = Policy.from_json({"allow": [f"127.0.0.1:{receiver.port}"]})
    assert post(receiver.url(), allowed).status == 200


def test_a_name_is_looked_up_once_and_the_address_that_passed_is_dialled(receiver: Receiver) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    asked: list[str] = []

    def look(name: str) -> list[IPAddress]:
        asked.append(name)
        return [ipaddress.ip_address(each) for each in next(answers)]

    assert post(receiver.url(host="api.test"), look=look).status == 200
    assert asked == ["api.test"]
    assert receiver.told[0].headers["host"] == f"api.test:{receiver.port}"


def test_the_next_address_of_a_name_is_tried(receiver: Receiver) -> None:
    other = Policy.from_json({"allow": ["127.0.0.0/8"]})
    assert post(receiver.url(host="api.test"), other, look=names(api_test=["127.0.0.2", "127.0.0.1"])).status == 200


def test_a_name_that_nobody_knows_may_be_known_later() -> None:
    answer = post("http://nobody.test/", look=names())
    assert (answer.error, answer.refused) == ("could not connect: ENOTFOUND", False)


def test_a_lookup_that_hangs_is_under_the_limit_and_keeps_its_place_until_it_ends() -> None:
    go_on, answers, over = threading.Event(), queue.Queue[Answer](), threading.Event()

    def look(name: str) -> list[IPAddress]:
        assert go_on.wait(20)
        return []

    with poster(look=look, timeout_s=0.2) as one:
        one.submit(Post("http://slow.test/", {}, b""), answers.put, over.set)
        assert answers.get(timeout=20).error in ("no answer within 0.2 s", "could not connect: EAI_AGAIN")
        assert not over.is_set()
        go_on.set()
        assert over.wait(20)


def test_an_error_of_ours_ends_one_post_and_nothing_else(receiver: Receiver) -> None:
    def look(name: str) -> list[IPAddress]:
        raise RuntimeError("a bug")

    answers: queue.Queue[Answer] = queue.Queue()
    with poster(look=look) as one:
        for host in ("broken.test", "127.0.0.1"):
            one.submit(Post(receiver.url(host=host), {}, b""), answers.put, lambda: None)
            assert answers.get(timeout=20).error == ("an internal error" if host == "broken.test" else None)


# TLS


def test_a_certificate_must_be_for_the_name_and_of_an_authority_that_counts(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    tls = ssl.create_default_context(cafile=str(authority.ca_file))
    look = names(api_test=["127.0.0.1"], other_test=["127.0.0.1"])
    with receiving(authority.server) as receiver:
        for host in ("api.test", "127.0.0.1"):
            assert post(receiver.url(host=host, scheme="https"), tls=tls, look=look).status == 200
        assert len(receiver.told) == 2
        wrong_name = post(receiver.url(host="other.test", scheme="https"), tls=tls, look=look)
        assert "Hostname mismatch" in (wrong_name.error or "") and wrong_name.error.startswith("TLS failed")  # type: ignore[union-attr]
        unknown = post(receiver.url(host="api.test", scheme="https"), tls=posting.trusted(), look=look)
        assert unknown.error == "TLS failed: unable to get local issuer certificate"
        assert not wrong_name.refused and not unknown.refused
        assert len(receiver.told) == 2


def test_an_authority_of_the_operator_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    with receiving(authority.server) as receiver:
        assert post(receiver.url(scheme="https"), tls=posting.trusted()).status == 200


def test_tls_with_somebody_who_speaks_none_is_a_failure(receiver: Receiver) -> None:
    assert (post(receiver.url(scheme="https")).error or "").startswith("TLS failed: ")


# Many of them


def script_for(services: Services, url: str, owner: str = "acme", slug: str = "hello") -> Script:
    if Workspace.get_or_none(Workspace.id == owner) is None:
        workspaces.create(services, owner, owner)
    return new_script(services, slug=slug, owner=owner, callback_url=url, callback_secret=SECRET)


def ended(services: Services, script: Script, count: int = 1) -> list[Run]:
    made = []
    for _ in range(count):
        run = runs.submit(services, Order(script.workspace_id, script.uuid, None, "api")).run
        runs.cancel(services, run)
        made.append(run)
    return made


@contextmanager
def delivering(services: Services, every_s: float = 0.02, policy: Policy = LOOPBACK, **options: Any) -> Iterator[
    Deliverer
]:
    """A deliverer at work; one that looks every hour is told when to by the test."""
    made = Deliverer(services, Poster(policy, posting.trusted(), **options), draw=lambda: 0.0, every_s=every_s)
    try:
        yield made
    finally:
        made.close()


def statuses() -> list[str]:
    return [row.status for row in Callback.select().order_by(Callback.id)]


def at(services: Services, clock: Callable[[], int]) -> Services:
    return dataclasses.replace(services, clock=clock)


def test_the_end_of_a_run_is_told_signed_and_once(local: Services, receiver: Receiver) -> None:
    (run,) = ended(local, script_for(local, receiver.url("/ok")))
    with delivering(local):
        eventually(lambda: statuses() == ["delivered"])
    (told,) = receiver.told
    verified = signatures.verify("standard", SECRET, told.headers, told.body, local.clock())
    assert verified.delivery_id == f"msg_{run.id}"
    said = json.loads(told.body)
    assert (said["type"], said["data"]["run_id"], said["data"]["error_code"]) == ("run.cancelled", run.id, "CANCELLED")
    (delivery,) = Callback.get().deliveries
    assert (delivery["status"], delivery["error"], delivery["try"]) == (200, None, 1)
    assert abs(local.clock() - delivery["at"]) < 60_000


def test_every_try_has_the_same_id_and_body_and_its_own_time(local: Services, receiver: Receiver) -> None:
    ended(local, script_for(local, receiver.url("/status/503")))
    now = local.clock()
    for number in range(1, 4):
        with delivering(at(local, lambda moment=now: moment), every_s=3600) as deliverer:  # type: ignore[misc]
            deliverer.look()
        row = Callback.get()
        assert (len(row.deliveries), row.deliveries[-1]["error"]) == (number, "answered 503")
        now = row.next_at
    assert len({(told.body, told.headers["webhook-id"]) for told in receiver.told}) == 1
    times = [int(told.headers["webhook-timestamp"]) for told in receiver.told]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [5, 30]


@pytest.mark.parametrize(
    ("path", "policy", "status", "error"),
    [
        ("/status/410", LOOPBACK, 410, "answered 410"), ("/ok", STRICT, None, "refused: loopback address"),
    ],
)  # fmt: skip
def test_who_is_gone_or_out_of_bounds_is_given_up_at_once(
    local: Services, receiver: Receiver, path: str, policy: Policy, status: int | None, error: str
) -> None:
    ended(local, script_for(local, receiver.url(path)))
    with delivering(local, every_s=3600, policy=policy) as deliverer:
        deliverer.look()
    row = Callback.get()
    assert (row.status, row.next_at) == ("failed", None)
    assert [(each["status"], each["error"]) for each in row.deliveries] == [(status, error)]


def test_two_workers_tell_each_end_once(local: Services, receiver: Receiver) -> None:
    told = [run.id for owner in ("acme", "beta") for run in ended(local, script_for(local, receiver.url(), owner), 20)]
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(delivering(local))
        eventually(lambda: statuses() == ["delivered"] * 40, 30)
    assert sorted(each.headers["webhook-id"] for each in receiver.told) == sorted(f"msg_{each}" for each in told)


def test_a_receiver_that_hangs_holds_up_nobody_else(local: Services, receiver: Receiver) -> None:
    ended(local, script_for(local, receiver.url("/hang")), 3 * PER_WORKSPACE)
    with delivering(local):
        eventually(lambda: len(receiver.told) == PER_WORKSPACE)
        quiet = [run.id for run in ended(local, script_for(local, receiver.url("/ok"), "quiet"), 5)]
        eventually(lambda: Callback.select().where(Callback.status == "delivered").count() == 5, 8)
        told = {each.headers["webhook-id"] for each in receiver.told if each.path == "/ok"}
        assert told == {f"msg_{each}" for each in quiet}
        assert sum(each.path == "/hang" for each in receiver.told) == PER_WORKSPACE


def test_lookups_that_hang_hold_up_nobody_else(local: Services, receiver: Receiver) -> None:
    go_on = threading.Event()
    asked: list[str] = []

    def look(name: str) -> list[IPAddress]:
        asked.append(name)
        assert go_on.wait(30)
        return []

    ended(local, script_for(local, "http://slow.test/"), 3 * PER_WORKSPACE)
    with delivering(local, look=look, timeout_s=1.0):
        eventually(lambda: sum(bool(row.deliveries) for row in Callback.select()) == PER_WORKSPACE)
        ended(local, script_for(local, receiver.url("/ok"), "quiet"), 2 * PER_WORKSPACE)
        eventually(lambda: statuses().count("delivered") == 2 * PER_WORKSPACE)
        # Those whose lookup goes on keep their workspace's places, though they have failed.
        assert len(asked) == PER_WORKSPACE
        go_on.set()
        eventually(lambda: len(asked) == 3 * PER_WORKSPACE)


def test_many_workspaces_with_receivers_that_hang_leave_the_process_its_bound(
    local: Services, receiver: Receiver
) -> None:
    for number in range(AT_ONCE // PER_WORKSPACE + 2):
        ended(local, script_for(local, receiver.url("/hang"), f"owner-{number}"), PER_WORKSPACE)
    with delivering(local):
        eventually(lambda: len(receiver.told) == AT_ONCE)
        with local.database.connection_context():
            assert Callback.select().where(Callback.leased_until.is_null(False)).count() == AT_ONCE
        receiver.release.set()
        eventually(lambda: len(receiver.told) == (AT_ONCE // PER_WORKSPACE + 2) * PER_WORKSPACE)


def test_the_end_of_the_process_waits_for_no_receiver_and_leaves_the_callback_to_the_next(
    local: Services, receiver: Receiver
) -> None:
    slow = script_for(local, receiver.url("/hang"))
    ended(local, slow)
    with delivering(local) as deliverer:
        eventually(lambda: len(receiver.told) == 1)
        begun = time.monotonic()
        deliverer.close()
        assert time.monotonic() - begun < 3.5  # a second and a bit, on a machine that has other things to do
    row = Callback.get()
    assert (row.status, row.leased_until, row.deliveries) == ("pending", None, [])
    receiver.release.set()
    with delivering(local):
        eventually(lambda: len(receiver.told) == 2)
    assert receiver.told[0].headers["webhook-id"] == receiver.told[1].headers["webhook-id"]


def test_who_answers_within_the_last_moment_is_recorded(
    local: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.callbacks.LAST_WORDS_S", 10.0)
    ended(local, script_for(local, receiver.url("/ok")))
    asked, go_on = threading.Event(), threading.Event()

    def hold(told: Any) -> None:
        asked.set()
        assert go_on.wait(20)

    receiver.before_answer = hold
    with delivering(local) as deliverer:
        assert asked.wait(15)
        threading.Timer(0.1, go_on.set).start()
        deliverer.close()
    assert statuses() == ["delivered"]


def test_a_worker_that_dies_leaves_it_to_another_when_its_lease_has_lapsed(
    local: Services, receiver: Receiver
) -> None:
    ended(local, script_for(local, receiver.url("/ok")))
    (taken,) = callbacks.take(local, callbacks.due(local, random.random))  # and is never heard of again
    with delivering(local, every_s=3600) as deliverer:
        deliverer.look()
        assert receiver.told == []
    later = at(local, lambda: ids.now_ms() + LEASE_MS + 1)
    with delivering(later, every_s=3600) as deliverer:
        deliverer.look()
    assert [each.headers["webhook-id"] for each in receiver.told] == [f"msg_{taken.id}"]


def test_a_database_that_is_away_ends_nothing_and_no_answer_is_forgotten(
    local: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(local, script_for(local, receiver.url("/ok")))
    away = threading.Event()
    settle = callbacks.settle

    def unsteady(*arguments: Any) -> None:
        if away.is_set():
            raise peewee.OperationalError("the server is gone")
        settle(*arguments)

    def gone(*arguments: Any) -> Any:
        raise peewee.OperationalError("the server is gone")

    monkeypatch.setattr(callbacks, "settle", unsteady)
    with delivering(local, every_s=3600) as deliverer:
        with monkeypatch.context() as patch:
            patch.setattr(callbacks, "take", gone)
            deliverer.look()
        away.set()
        deliverer.look()
        assert (len(receiver.told), statuses()) == (1, ["pending"])
        away.clear()
        deliverer.look()
    assert (len(receiver.told), statuses()) == (1, ["delivered"])


def test_a_secret_that_does_not_open_is_a_failed_try_and_nothing_is_sent(
    local: Services, receiver: Receiver
) -> None:
    script = script_for(local, receiver.url("/ok"))
    ended(local, script)
    Script.update(callback_secret="v1.AAAA").execute()
    with delivering(local, every_s=3600) as deliverer:
        deliverer.look()
    row = Callback.get()
    assert (row.status, [each["error"] for each in row.deliveries]) == ("pending", ["its secret could not be opened"])
    assert receiver.told == []
    scripts.update(local, script, scripts.Change(callback_secret=SECRET))
    with delivering(at(local, lambda: row.next_at), every_s=3600) as deliverer:
        deliverer.look()
    assert statuses() == ["delivered"]


def test_a_stop_while_callbacks_are_taken_gives_them_back_and_posts_nothing(
    local: Services, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(local, script_for(local, receiver.url("/ok")))
    take = callbacks.take
    with delivering(local, every_s=3600) as deliverer:

        def slow(*given: Any) -> Any:
            taken = take(*given)
            deliverer.stop()
            return taken

        monkeypatch.setattr(callbacks, "take", slow)
        deliverer.look()
    assert receiver.told == [] and Callback.get().leased_until is None


def test_a_post_for_somebody_who_has_closed_is_dropped() -> None:
    poster = Poster(STRICT, posting.trusted())
    poster.close()
    poster.submit(Post("http://127.0.0.1/", {}, b""), pytest.fail, pytest.fail)


def test_a_file_without_authorities_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("missing.pem", "empty.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        with pytest.raises(SettingError, match=r"SSL_CERT_FILE names no authorities: .*\.pem: "):
            posting.trusted()


def test_it_stops_at_once_when_there_is_nothing_to_do(local: Services) -> None:
    with delivering(local, every_s=3600) as deliverer:
        begun = time.monotonic()
        deliverer.close()
        assert time.monotonic() - begun < 5
