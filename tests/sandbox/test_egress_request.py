"""Heads of proxy requests, honest and not."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.egress import request
from sandbox.egress.policy import Refused, Target
from sandbox.egress.request import BadRequest

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_connect_names_a_host_and_a_port_and_sends_nothing_on() -> None:
    parsed = request.parse(head("CONNECT Example.com:443 HTTP/1.1", "Host: other:1"))
    assert parsed.target == Target("example.com", 443)
    assert parsed.is_connect
    assert parsed.head == b""


def test_a_plain_request_goes_on_in_origin_form_with_the_checked_host() -> None:
    parsed = request.parse(
        head(
            "POST http://Example.com/a?b=http://c/d#e HTTP/1.0",
            "host: 169.254.169.254",
            "HOST: internal",
            "Accept: */*",
            "Proxy-Authorization: Basic abc",
            "Proxy-Connection: keep-alive",
            "Connection: keep-alive",
            "Content-Length: 2",
        )
    )
    assert parsed.target == Target("example.com", 80)
    assert parsed.head == head(
        "POST /a?b=http://c/d HTTP/1.1",
        "Host: example.com",
        "Connection: close",
        "Accept: */*",
        "Content-Length: 2",
    )


@pytest.mark.parametrize(
    ("url", "path", "host"),
    [
        ("http://example.com", "/", "example.com"),
        ("http://example.com?q", "/?q", "example.com"),
        ("http://example.com:8080/", "/", "example.com:8080"),
        ("http://[2606:4700::1]:81/x", "/x", "[2606:4700::1]:81"),
        ("HTTP://example.com#f", "/", "example.com"),
    ],
)
def test_any_absolute_url_finds_its_path_and_host(url: str, path: str, host: str) -> None:
    lines = request.parse(head(f"GET {url} HTTP/1.1")).head.split(b"\r\n")
    assert lines[:2] == [f"GET {path} HTTP/1.1".encode(), f"Host: {host}".encode()]


def test_an_upgrade_keeps_its_connection_header() -> None:
    sent = request.parse(head("GET http://a.com/ HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade")).head
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in sent


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host: example.com"],
        ["GET https://example.com/ HTTP/1.1"],
        ["GET ftp://example.com/ HTTP/1.1"],
        ["GET http://example.com/"],
        ["GET http://example.com/ HTTP/2.0"],
        ["GE T http://example.com/ HTTP/1.1 "],
        [""],
        ["\x16\x03\x01 tls"],
        ["GET http://example.com/ HTTP/1.1", "no colon"],
        ["GET http://example.com/ HTTP/1.1", "Bad Name: x"],
        ["GET http://example.com/ HTTP/1.1", " Folded: x"],
        ["GET http://example.com/ HTTP/1.1", "A: b\nHost: c"],
        ["GET http://example.com/ HTTP/1.1", "A: b\rHost: c"],
        ["GET http://exam\0ple.com/ HTTP/1.1"],
    ],
)
def test_what_is_not_a_proxy_request_is_refused_as_one(lines: list[str]) -> None:
    with pytest.raises(BadRequest):
        request.parse(head(*lines))


@pytest.mark.parametrize(
    "url",
    ["http://a@b.com/", "http://a:80@169.254.169.254/", "http:///x", "http://a.com:/", "http://2130706433/"],
)
def test_a_url_whose_host_is_disguised_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        request.parse(head(f"GET {url} HTTP/1.1"))


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parsed = request.parse(data + b"\r\n\r\n")
    except (BadRequest, Refused):
        return
    assert parsed.target.port > 0


@unhurried
@given(st.from_regex(r"\A(CONNECT |GET http://)[!-~]{0,30}( HTTP/1\.1)?\Z"))
def test_a_refused_head_always_says_what_it_asked_for(line: str) -> None:
    try:
        request.parse(head(line))
    except Refused:
        host, port = request.claimed_target(head(line))
        assert host in line
        assert 0 <= port <= 65535
    except BadRequest:
        pass
