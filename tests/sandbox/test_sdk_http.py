"""sdk.http in every language: real jails, the real proxy, and servers that answer in every way."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox.client import Sandbox
from sandbox.job import CallRefused
from tests.launcher import start_launcher
from tests.sandbox import egress_support
from tests.sandbox.sdk_support import DIALECTS, Dialect, Failure
from tests.sandbox.support import Recorder, Runner

EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
JSON_TYPE = "application/json"


class Server(egress_support.Handler):
    """Answers in every way that a client has to cope with, by path; the echo of its base class for all others."""

    def do_GET(self) -> None:
        path, _, rest = self.path.partition("?")
        if path.startswith("/hops/"):
            hops = int(path.removeprefix("/hops/"))
            self._redirect(302, f"/hops/{hops - 1}" if hops > 1 else "/arrived")
        elif path.startswith("/code/"):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._redirect(int(path.removeprefix("/code/")), rest)
        elif path in ANSWERS:
            self._answer(*ANSWERS[path])
        elif path in CUT_SHORT:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + CUT_SHORT[path])
            self.close_connection = True
        else:
            super().do_GET()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _redirect(self, status: int, location: str) -> None:
        self._answer(status, {"Location": location}, b"")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


PACKED = {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/500": (500, {"Content-Type": JSON_TYPE}, b'{"error":"down"}'),
    "/404": (404, {"Content-Type": "text/html"}, b"<p>no</p>"),
    "/204": (204, {}, b""),
    "/problem": (200, {"Content-Type": "application/problem+json; charset=utf-8"}, b'{"a":1}'),
    "/notjson": (200, {"Content-Type": JSON_TYPE}, b"{oops"),
    "/latin": (200, {"Content-Type": "text/plain; charset=iso-8859-1"}, b"\xe9"),
    "/strange": (200, {"Content-Type": "text/plain; charset=klingon"}, "é".encode()),
    "/gzip": (200, PACKED, gzip.compress(b'{"packed":true}')),
    "/damaged": (200, PACKED, gzip.compress(b'{"packed":true}')[:-9]),
    "/bomb": (200, PACKED, gzip.compress(b"0" * 11_000_000)),
    "/shreds": (200, PACKED, gzip.compress(b"") * 100_000),
    "/padded": (200, PACKED, gzip.compress(b'{"packed":') + gzip.compress(b"true}") + bytes(3)),
    "/nan": (200, {"Content-Type": JSON_TYPE}, b"NaN"),
    "/idna": (200, {"Content-Type": "text/plain; charset=idna"}, b"abc"),
    "/undefined": (200, {"Content-Type": "text/plain; charset=undefined"}, b"abc"),
}
CUT_SHORT = {
    "/length": b"Content-Length: 1000\r\n\r\n0123456789",
    "/chunks": b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n",
}


def allow(method: str, params: dict[str, Any]) -> Any:
    assert (method, params) == ("http.begin", {})


@dataclass
class Rig:
    """Jails that may reach the server at `url`, and the same one under `other`; not the one at `closed`."""

    runner: Runner
    url: str
    other: str
    tls: str
    closed: str
    ca: str

    def call(self, dialect: Dialect, method: str, path: str, *args: Any, **options: Any) -> Any:
        url = f"{self.url}{path}" if path.startswith("/") else path
        return dialect.call(self.runner, f"http.{method}", url, *args, sink=Recorder(answer=allow), **options)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        authority = egress_support.make_authority(tmp_path_factory.mktemp("ca"))
        port, other, closed = (stack.enter_context(egress_support.http_server(handler=Server)) for _ in range(3))
        tls = stack.enter_context(egress_support.http_server(authority.server, Server))
        allowed = ",".join(f"127.0.0.1:{each}" for each in (port, other, tls))
        home = tmp_path_factory.mktemp("http")
        sandbox = Sandbox(stack.enter_context(start_launcher(home, MILLRACE_EGRESS_ALLOW=allowed)))
        urls = (f"http://127.0.0.1:{each}" for each in (port, other))
        ca = authority.ca_file.read_text()
        yield Rig(Runner(sandbox), *urls, f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{closed}", ca)
        sandbox.close()


@EVERY_DIALECT
def test_get_sends_headers_and_query_and_parses_json(rig: Rig, dialect: Dialect) -> None:
    query = {"a": "x y", "n": 1, "list": ["p", "q"], "none": None, "yes": True}
    answer = rig.call(dialect, "get", "/path?first=0", headers={"X-Mine": "m", "Accept": "text/x"}, query=query)
    assert answer["status"] == 200
    assert answer["headers"]["content-type"] == JSON_TYPE
    seen = answer["body"]
    assert seen["method"] == "GET"
    assert seen["path"].replace("%20", "+") == "/path?first=0&a=x+y&n=1&list=p&list=q&yes=true"
    assert (seen["headers"]["x-mine"], seen["headers"]["accept"]) == ("m", "text/x")
    assert seen["headers"]["user-agent"] == "millrace-sdk"


@EVERY_DIALECT
@pytest.mark.parametrize("method", ["post", "put", "patch"])
@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ({"a": [1, "é"]}, '{"a":[1,"é"]}', JSON_TYPE),
        ([], "[]", JSON_TYPE),
        (5, "5", JSON_TYPE),
        ("text", "text", "text/plain;charset=utf-8"),
        (None, "", None),
    ],
)
def test_a_body_is_sent_with_the_type_that_it_has(
    rig: Rig, dialect: Dialect, method: str, body: Any, sent: str, content_type: str | None
) -> None:
    seen = rig.call(dialect, method, "/", body)["body"]
    assert seen["method"] == method.upper()
    assert seen["body"].encode("latin-1").decode() == sent
    assert seen["headers"].get("content-type") == content_type
    assert seen["headers"]["content-length"] == str(len(sent.encode()))


@EVERY_DIALECT
def test_a_content_type_of_the_scripts_own_is_kept(rig: Rig, dialect: Dialect) -> None:
    seen = rig.call(dialect, "post", "/", "<a/>", headers={"Content-Type": "text/xml"})["body"]
    assert seen["headers"]["content-type"] == "text/xml"


@EVERY_DIALECT
def test_bytes_are_sent_as_they_are(rig: Rig, dialect: Dialect) -> None:
    ran = dialect.run(
        rig.runner,
        "return (await sdk.http.post(payload, Buffer.from([104, 105]))).body",
        "return (AWAIT sdk.http.post(payload, b'hi')).body",
        rig.url,
        sink=Recorder(answer=allow),
    )
    assert ran.result["body"] == "hi"
    assert ran.result["headers"]["content-type"] == "application/octet-stream"


@EVERY_DIALECT
def test_delete_sends_no_body(rig: Rig, dialect: Dialect) -> None:
    seen = rig.call(dialect, "delete", "/thing", headers={"If-Match": "1"})["body"]
    assert (seen["method"], seen["path"], seen["body_length"]) == ("DELETE", "/thing", 0)
    assert seen["headers"]["if-match"] == "1"


@EVERY_DIALECT
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/500", 500, {"error": "down"}),
        ("/404", 404, "<p>no</p>"),
        ("/204", 204, ""),
        ("/problem", 200, {"a": 1}),
        ("/notjson", 200, "{oops"),
        ("/latin", 200, "é"),
        ("/strange", 200, "é"),
        ("/gzip", 200, {"packed": True}),
        ("/padded", 200, {"packed": True}),
        ("/nan", 200, "NaN"),
        ("/idna", 200, "abc"),
        ("/undefined", 200, "abc"),
    ],
)
def test_whatever_a_server_answers_is_an_answer(rig: Rig, dialect: Dialect, path: str, status: int, body: Any) -> None:
    answer = rig.call(dialect, "get", path)
    assert (answer["status"], answer["body"]) == (status, body)


@EVERY_DIALECT
@pytest.mark.parametrize(
    ("path", "code", "part"),
    [
        ("/bytes/10485761", "RESPONSE_TOO_LARGE", "the response is larger than the limit of 10 MB"),
        ("/bomb", "RESPONSE_TOO_LARGE", "the response is larger than the limit of 10 MB"),
        ("/damaged", "BAD_RESPONSE", "data is damaged"),
        ("/hops/11", "TOO_MANY_REDIRECTS", "the server redirects more than 10 times"),
        ("/code/302?ftp://127.0.0.1/", "BAD_REDIRECT", "the server redirects to ftp:, but only http: and https:"),
        ("/code/302?file:///etc/passwd", "BAD_REDIRECT", "the server redirects to file:"),
    ],
)
def test_what_is_beyond_the_bounds_is_an_error_that_names_them(
    rig: Rig, dialect: Dialect, path: str, code: str, part: str
) -> None:
    failure = rig.call(dialect, "get", path)
    assert failure.code == code
    assert failure.message.startswith("sdk.http.get: ")
    assert part in failure.message


@EVERY_DIALECT
@pytest.mark.parametrize("path", CUT_SHORT)
def test_an_answer_that_is_cut_short_is_no_answer(rig: Rig, dialect: Dialect, path: str) -> None:
    failure = rig.call(dialect, "get", path)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("sdk.http.get: ")


@pytest.mark.parametrize("dialect", DIALECTS[1:], ids=repr)
def test_an_answer_in_shreds_takes_no_longer_than_others(rig: Rig, dialect: Dialect) -> None:
    """Python unpacks them one by one, and copies the rest each time."""
    assert rig.call(dialect, "get", "/shreds").code == "BAD_RESPONSE"


@EVERY_DIALECT
def test_a_redirect_to_what_is_no_address_says_so(rig: Rig, dialect: Dialect) -> None:
    failure = rig.call(dialect, "get", "/code/302?http://[::1/x")
    assert (failure.message, failure.code) == ("sdk.http.get: the server redirects to no address", "BAD_REDIRECT")


@EVERY_DIALECT
@pytest.mark.parametrize("path", ["http://münchen.test/ü", "/code/302?http://m%C3%BCnchen.test/"])
def test_a_name_in_any_alphabet_is_asked_for_as_names_are(rig: Rig, dialect: Dialect, path: str) -> None:
    """And is no address of the inside, as one that the proxy can't read would be."""
    failure = rig.call(dialect, "get", path)
    assert failure.code != "SSRF_BLOCKED"
    assert failure.message.startswith("sdk.http.get: ")


@EVERY_DIALECT
def test_the_query_of_an_address_stays_as_it_is_before_what_is_added(rig: Rig, dialect: Dialect) -> None:
    """One that is signed would not be what was signed."""
    answer = rig.call(dialect, "get", "/x?signed=a%2Fb~c%20d&e#f", query={"n": [1, "ü x"]})
    assert answer["body"]["path"] == "/x?signed=a%2Fb~c%20d&e&n=1&n=%C3%BC+x"
    assert rig.call(dialect, "get", "/x", query={"n": 1})["body"]["path"] == "/x?n=1"


@EVERY_DIALECT
def test_ten_megabytes_and_ten_redirects_are_allowed(rig: Rig, dialect: Dialect) -> None:
    assert rig.call(dialect, "get", "/hops/10")["body"]["path"] == "/arrived"
    ran = dialect.run(
        rig.runner,
        "return (await sdk.http.get(payload)).body.length",
        "return len((AWAIT sdk.http.get(payload)).body)",
        f"{rig.url}/bytes/10485760",
        sink=Recorder(answer=allow),
    )
    assert ran.result == 10_485_760


@EVERY_DIALECT
@pytest.mark.parametrize(
    ("status", "method", "arrives", "body"),
    [(301, "post", "GET", ""), (302, "post", "GET", ""), (302, "put", "PUT", "hi"), (303, "put", "GET", ""),
     (307, "post", "POST", "hi"), (308, "patch", "PATCH", "hi"), (303, "post", "GET", "")],
)  # fmt: skip
def test_a_redirect_keeps_method_and_body_as_browsers_do(
    rig: Rig, dialect: Dialect, status: int, method: str, arrives: str, body: str
) -> None:
    seen = rig.call(dialect, method, f"/code/{status}?/there", "hi")["body"]
    assert (seen["method"], seen["path"], seen["body"]) == (arrives, "/there", body)


@EVERY_DIALECT
def test_credentials_follow_a_redirect_to_the_same_server_and_to_no_other(rig: Rig, dialect: Dialect) -> None:
    headers = {"Authorization": "secret", "Cookie": "secret", "X-Mine": "m"}
    same = rig.call(dialect, "get", f"/code/302?{rig.url}/there", headers=headers)["body"]["headers"]
    assert (same["authorization"], same["cookie"], same["x-mine"]) == ("secret", "secret", "m")
    away = rig.call(dialect, "get", f"/code/302?{rig.other}/there", headers=headers)["body"]["headers"]
    assert ("authorization" in away, "cookie" in away, away["x-mine"]) == (False, False, "m")


INSIDE = [
    "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://[::1]/", "http://2130706433/",
    "http://0x7f.1/", "http://[::ffff:169.254.169.254]/", "https://192.168.0.1/",
]  # fmt: skip


@EVERY_DIALECT
@pytest.mark.parametrize("url", INSIDE)
def test_an_address_of_the_inside_is_refused_as_ssrf(rig: Rig, dialect: Dialect, url: str) -> None:
    failure = rig.call(dialect, "get", url)
    assert failure.message.startswith("SSRF protection: ")
    assert failure.code == "SSRF_BLOCKED"


@EVERY_DIALECT
def test_a_redirect_to_the_inside_is_refused_as_ssrf(rig: Rig, dialect: Dialect) -> None:
    for there in ("http://169.254.169.254/", rig.closed):
        failure = rig.call(dialect, "get", f"/code/302?{there}")
        assert failure.message.startswith(f"SSRF protection: {there.removeprefix('http://').rstrip('/').split(':')[0]}")


@EVERY_DIALECT
def test_a_host_that_is_not_on_the_scripts_list_is_refused_as_such(rig: Rig, dialect: Dialect) -> None:
    ran = dialect.run(
        rig.runner,
        "return sdk.http.get(payload).catch((e) => [e.message, e.code])",
        "try:\n    AWAIT sdk.http.get(payload)\nexcept Exception as e:\n    return [str(e), e.code]",
        "http://example.com/",
        sink=Recorder(answer=allow),
        egress_hosts=(),
    )
    assert ran.result == [
        "sdk.http.get: egress to example.com:80 refused: the script has no network access", "EGRESS_REFUSED"
    ]  # fmt: skip


@EVERY_DIALECT
def test_a_request_ends_at_its_timeout_in_words(rig: Rig, dialect: Dialect) -> None:
    failure = rig.call(dialect, "get", "/never", timeout=250)
    assert failure.message == "sdk.http.get: the request took longer than its timeout of 250 ms"
    assert failure.code == "TIMEOUT"


@EVERY_DIALECT
def test_a_server_that_is_not_there_is_an_error(rig: Rig, dialect: Dialect) -> None:
    failure = rig.call(dialect, "get", "http://nowhere.invalid/")
    assert failure.message.startswith("sdk.http.get: ")


@EVERY_DIALECT
def test_each_request_is_begun_with_the_platform_and_a_refused_one_is_not_sent(rig: Rig, dialect: Dialect) -> None:
    def once(method: str, params: dict[str, Any]) -> Any:
        if len(sink.calls) > 1:
            raise CallRefused("Rate limit exceeded: 60 requests a minute", code="RATE_LIMITED", retry_after_ms=5)

    sink = Recorder(answer=once)
    ran = dialect.run(
        rig.runner,
        "await sdk.http.get(payload); return sdk.http.get(payload).catch((e) => [e.message, e.code])",
        "AWAIT sdk.http.get(payload)\ntry:\n    AWAIT sdk.http.get(payload)\nexcept Exception as e:\n"
        "    return [str(e), e.code]",
        f"{rig.url}/hops/3",
        sink=sink,
    )
    assert ran.result == ["Rate limit exceeded: 60 requests a minute", "RATE_LIMITED"]
    assert sink.calls == [("http.begin", {})] * 2


WRONG = [
    (["get", ""], {}, "url must be a str"),
    (["get", "ftp://x/"], {}, "must begin with http:// or https://"),
    (["get", "nonsense"], {}, "http:// or https://"),
    (["get", "http://user:pass@x/"], {}, "url must not have a user name in it"),
    (["get", "http://x:99999/"], {}, "url "),
    (["get", "http://x/"], {"timeout": 0}, "timeout must be a whole number from 1 to 900000, not 0"),
    (["get", "http://x/"], {"timeout": "1"}, "timeout must be a whole number"),
    (["get", "http://x/"], {"headers": []}, "headers must be a"),
    (["get", "http://x/"], {"headers": {"a b": "c"}}, "a header's name has a character that is not allowed"),
    (["get", "http://x/"], {"headers": {"a": "b\r\nc: d"}}, "the header a has a character that is not allowed"),
    (["get", "http://x/"], {"headers": {"a": {}}}, "must be a str"),
    (["get", "http://x/"], {"headers": {"Host": "y"}}, "the header host is set by the platform"),
    (["get", "http://x/"], {"query": "a=b"}, "query must be a"),
    (["get", "http://x/"], {"query": {"a": {}}}, "must be a str"),
]


@EVERY_DIALECT
@pytest.mark.parametrize(("args", "options", "part"), WRONG)
def test_a_wrong_argument_is_a_type_error_and_nothing_is_asked(
    rig: Rig, dialect: Dialect, args: list[Any], options: dict[str, Any], part: str
) -> None:
    sink = Recorder()
    method, *rest = args
    failure = dialect.call(rig.runner, f"http.{method}", *rest, sink=sink, **options)
    assert (failure.name, part in failure.message) == ("TypeError", True), failure
    assert sink.calls == []


@EVERY_DIALECT
def test_an_unknown_option_is_a_type_error(rig: Rig, dialect: Dialect) -> None:
    failure = rig.call(dialect, "get", "/", retries=3)
    assert failure.name == "TypeError"
    assert "retries" in failure.message


def test_tls_is_end_to_end_and_strict(rig: Rig) -> None:
    careful = rig.call(DIALECTS[0], "get", rig.tls)
    assert "self-signed certificate" in careful.message or "unable to verify" in careful.message
    trusting = "require('https').globalAgent.options.ca = payload[1]; return (await sdk.http.get(payload[0])).status"
    assert rig.runner.body(trusting, [rig.tls, rig.ca], sink=Recorder(answer=allow)).result == 200


def test_tls_of_python_is_end_to_end_and_strict(rig: Rig) -> None:
    careful = rig.call(DIALECTS[1], "get", rig.tls)
    assert "CERTIFICATE_VERIFY_FAILED" in careful.message
    trusting = """
import os
with open("/tmp/ca.pem", "w") as file:
    file.write(payload[1])
os.environ["SSL_CERT_FILE"] = "/tmp/ca.pem"
return (AWAIT sdk.http.get(payload[0])).status
"""
    ran = DIALECTS[1].run(rig.runner, "", trusting, [rig.tls, rig.ca], sink=Recorder(answer=allow))
    assert ran.result == 200


@EVERY_DIALECT
def test_requests_leave_a_jail_as_fit_for_reuse_as_it_was(rig: Rig, dialect: Dialect) -> None:
    source, fields = dialect.body(
        "return (await sdk.http.get(payload)).status", "return (AWAIT sdk.http.get(payload)).status"
    )
    jails = []
    for _ in range(3):
        ran = rig.runner(
            {fields.get("main", "index.js"): source}, f"{rig.url}/a", sink=Recorder(answer=allow),
            reuse_key=f"http {dialect}", **fields,
        )  # fmt: skip
        assert ran.result == 200
        jails.append(ran.outcome.usage.jail)
    assert jails[1:] == ["reused", "reused"]


@pytest.mark.parametrize("dialect", DIALECTS[1:], ids=repr)
def test_an_answer_of_python_has_attributes_and_is_json(rig: Rig, dialect: Dialect) -> None:
    python = "a = AWAIT sdk.http.get(payload)\nreturn [a.status, a['status'], a.body['path'], a]"
    ran = dialect.run(rig.runner, "", python, f"{rig.url}/a", sink=Recorder(answer=allow))
    assert ran.result[:3] == [200, 200, "/a"]
    assert json.dumps(ran.result[3])


def test_requests_of_a_handler_run_side_by_side(rig: Rig) -> None:
    source = """
        const get = async (_, n) => (await sdk.http.get(`${payload}/${n}`)).body.path;
        return Promise.all(Array.from({ length: 8 }, get));
    """
    assert rig.runner.body(source, rig.url, sink=Recorder(answer=allow)).result == [f"/{n}" for n in range(8)]
