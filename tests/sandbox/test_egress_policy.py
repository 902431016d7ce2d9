"""How a policy reads what people and scripts write."""

import ipaddress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.egress import policy
from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy, RefusalKind, Refused, Target

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

METADATA = ipaddress.ip_address("169.254.169.254")
LAN = ipaddress.ip_address("10.1.2.3")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.01",
        "1.2.3.4.",
        "example.com.",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "exa\0mple.com",
        "example.com\r\nX: y",
        "exa mple.com",
        "%31%32%37.0.0.1",
        "",
        ".",
        "..",
        "a..b",
        "-a.com",
        "a-.com",
        "a" * 64 + ".com",
        "a." * 130 + "com",
        "[example.com]",
        "[::1",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "bücher.de",
        "\u212aelvin.com",
        "\ud800.com",
        "user@example.com",
        "example.com/path",
        "example.com:80",
        "example.1",
        "example.0x10",
    ],
)
def test_a_host_that_is_neither_a_plain_name_nor_a_plain_address_is_refused(host: str) -> None:
    with pytest.raises(Refused):
        policy.parse_host(host)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("API.Example.COM", "api.example.com"),
        ("localhost", "localhost"),
        ("my_service.internal", "my_service.internal"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("3com.com", "3com.com"),
        ("r1---sn-abc.example.com", "r1---sn-abc.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("[2606:4700::0001]", "2606:4700::1"),
    ],
)
def test_names_and_addresses_are_read_in_their_usual_form(text: str, host: str) -> None:
    assert policy.parse_host(text)[0] == host


@unhurried
@given(st.text(max_size=40))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    try:
        target = policy.parse_target(text)
    except Refused:
        return
    assert 0 < target.port <= 65535
    assert target.host.isascii()
    assert target.host == target.host.lower()


@pytest.mark.parametrize(
    "authority",
    ["example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:-1", "example.com:+80",
     "example.com:８０", "example.com:80 ", "example.com:080000", "a@example.com:80", "a:b@example.com:80",
     "::1:80", "2606:4700::1:443", ":80", ""],
)  # fmt: skip
def test_an_authority_without_a_clear_host_and_port_is_refused(authority: str) -> None:
    with pytest.raises(Refused):
        policy.parse_target(authority)


def test_an_authority_may_leave_out_the_port_where_there_is_a_default() -> None:
    assert policy.parse_target("example.com", 80) == Target("example.com", 80)
    assert policy.parse_target("[::1]", 80) == Target("::1", 80, ipaddress.ip_address("::1"))
    assert policy.parse_target("[::1]:81", 80) == Target("::1", 81, ipaddress.ip_address("::1"))


def allowed(rules: Policy, target: Target) -> bool:
    try:
        rules.check_host(target)
    except Refused:
        return False
    return True


def test_without_a_host_list_any_host_may_be_asked_for() -> None:
    assert allowed(Policy(), Target("example.com", 443))


def test_an_empty_host_list_means_no_network() -> None:
    rules = Policy.from_json({"hosts": []})
    with pytest.raises(Refused, match="no network access"):
        rules.check_host(Target("example.com", 443))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.example.com", True),
        ("www.example.com", False),
        ("api.example.com.evil.com", False),
        ("evilapi.example.com", False),
        ("a.foo.com", True),
        ("a.b.foo.com", True),
        ("foo.com", False),
        ("evilfoo.com", False),
        ("93.184.216.34", True),
        ("93.184.216.35", False),
    ],
)
def test_a_host_list_names_hosts_exactly_and_wildcards_stand_for_what_is_below(host: str, expected: bool) -> None:
    rules = Policy.from_json({"hosts": ["API.example.com", "*.foo.com", "93.184.216.34"]})
    assert allowed(rules, policy.parse_target(host, 443)) is expected


@pytest.mark.parametrize(
    ("authority", "kind"),
    [
        ("2130706433:80", RefusalKind.BAD_HOST),
        ("exa mple.com:80", RefusalKind.BAD_HOST),
        ("a@example.com:80", RefusalKind.BAD_HOST),
        ("::1:80", RefusalKind.BAD_HOST),
        ("[fe80::1%1]:80", RefusalKind.ADDRESS),
        ("example.com:0", RefusalKind.PORT),
        ("example.com", RefusalKind.PORT),
    ],
)
def test_what_cannot_be_read_is_counted_by_what_is_wrong_with_it(authority: str, kind: RefusalKind) -> None:
    with pytest.raises(Refused) as caught:
        policy.parse_target(authority)
    assert caught.value.kind is kind


def reachable(rules: Policy, target: Target, address: IPAddress) -> bool:
    try:
        rules.check_address(target, address)
    except Refused:
        return False
    return True


@pytest.mark.parametrize(
    ("entry", "host", "port", "expected"),
    [
        ("10.0.0.0/8", "anything.com", 80, True),
        ("10.0.0.0/8:80", "anything.com", 80, True),
        ("10.0.0.0/8:80", "anything.com", 81, False),
        ("10.1.2.3", "anything.com", 80, True),
        ("10.1.2.4", "anything.com", 80, False),
        ("10.1.2.3:443", "anything.com", 443, True),
        ("10.1.2.3:443", "anything.com", 80, False),
        ("minio", "minio", 9000, True),
        ("minio:9000", "minio", 9000, True),
        ("minio:9000", "minio", 80, False),
        ("minio:9000", "other", 9000, False),
        ("*.internal:80", "a.internal", 80, True),
        ("*.internal:80", "internal", 80, False),
        ("fd00::/8", "anything.com", 80, False),
    ],
)
def test_an_exemption_lets_its_own_host_network_and_port_through_and_no_other(
    entry: str, host: str, port: int, expected: bool
) -> None:
    rules = Policy.from_json({"allow": [entry]})
    assert reachable(rules, Target(host, port), LAN) is expected


@pytest.mark.parametrize("entry", ["fd00::/8", "[fd00::/8]:80", "[fd00::1]:80", "[fd00::1]", "fd00::1"])
def test_an_exemption_may_be_ipv6(entry: str) -> None:
    rules = Policy.from_json({"allow": [entry]})
    assert reachable(rules, Target("db", 80), ipaddress.ip_address("fd00::1"))
    assert not reachable(rules, Target("db", 80), LAN)


def test_an_exemption_for_one_network_does_not_open_the_metadata_address() -> None:
    rules = Policy.from_json({"allow": ["10.0.0.0/8", "minio:9000"]})
    assert not reachable(rules, Target("metadata", 80), METADATA)


def test_an_exemption_does_not_widen_the_scripts_host_list() -> None:
    rules = Policy.from_json({"hosts": ["api.example.com"], "allow": ["minio:9000"]})
    assert not allowed(rules, Target("minio", 9000))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"hosts": ["*"]}, "'*'"),
        ({"hosts": ["*.1.2.3.4"]}, "a wildcard needs a host name"),
        ({"hosts": "example.com"}, "hosts must be a list"),
        ({"hosts": [1]}, "hosts must be a list"),
        ({"allow": None}, "allow must be a list"),
        ({"allow": ["10.0.0.1/8"]}, "10.0.0.1/8.*host bits"),
        ({"allow": ["10.0.0.0/40"]}, "10.0.0.0/40"),
        ({"allow": ["minio:http"]}, "minio:http.*port"),
        ({"allow": ["[::1"]}, r"\[::1"),
        ({"allow": [""]}, "''"),
        ({"max_connections": 0}, "max_connections must be a positive number, not 0"),
        ({"max_bytes": "1"}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"idle_timeout": -1}, "idle_timeout"),
        ({"idle_timeout": float("nan")}, "idle_timeout"),
        ({"host": []}, "unknown field 'host'"),
    ],
)
def test_a_wrong_policy_is_refused_by_the_name_of_its_field_and_value(data: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("'*'", r"'\*'")):
        Policy.from_json(data)


def test_a_policy_that_says_nothing_lets_public_hosts_through_under_the_usual_caps() -> None:
    assert Policy.from_json({}) == Policy()
    assert Policy.from_json({"hosts": None, "allow": [], "max_connections": 64}) == Policy()
