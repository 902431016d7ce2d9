"""Which addresses a jail may reach, whatever the version of Python thinks of them."""

import asyncio
import ipaddress
import socket
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox.egress import addresses, resolver
from sandbox.egress.policy import Policy, RefusalKind, Refused, Target
from tests.sandbox.egress_support import ROOT

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

REFUSED = {
    "0.0.0.0": "unspecified address",
    "0.1.2.3": "unspecified address",
    "10.0.0.1": "private address",
    "10.255.255.255": "private address",
    "100.64.0.1": "carrier-grade NAT address",
    "100.100.100.200": "carrier-grade NAT address",
    "127.0.0.1": "loopback address",
    "127.255.255.254": "loopback address",
    "168.63.129.16": "cloud metadata address",
    "169.254.0.1": "link-local address",
    "169.254.169.254": "link-local address",
    "169.254.170.2": "link-local address",
    "172.16.0.1": "private address",
    "172.31.255.255": "private address",
    "192.0.0.9": "reserved address",
    "192.0.0.192": "reserved address",
    "192.0.2.1": "documentation address",
    "192.88.99.1": "6to4 relay address",
    "192.168.1.1": "private address",
    "198.18.0.1": "benchmarking address",
    "198.51.100.1": "documentation address",
    "203.0.113.1": "documentation address",
    "224.0.0.1": "multicast address",
    "239.255.255.250": "multicast address",
    "240.0.0.1": "reserved address",
    "255.255.255.255": "reserved address",
    "::": "unspecified address",
    "::1": "loopback address",
    "::7f00:1": "IPv4-compatible address",
    "::ffff:127.0.0.1": "IPv4-mapped address",
    "::ffff:8.8.8.8": "IPv4-mapped address",
    "::ffff:0:7f00:1": "reserved address",
    "64:ff9b::a9fe:a9fe": "NAT64 address",
    "64:ff9b:1::1": "NAT64 address",
    "100::1": "reserved address",
    "2001::1": "Teredo address",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo address",
    "2001:2::1": "reserved address",
    "2001:10::1": "reserved address",
    "2001:20::1": "reserved address",
    "2001:db8::1": "documentation address",
    "2002:7f00:1::": "6to4 address",
    "2002:a9fe:a9fe::1": "6to4 address",
    "3fff::1": "documentation address",
    "4000::1": "reserved address",
    "5f00::1": "reserved address",
    "fc00::1": "private address",
    "fd00:ec2::254": "private address",
    "fe80::1": "link-local address",
    "fe80::1%eth0": "scoped address",
    "2606:4700::1%1": "scoped address",
    "fec0::1": "site-local address",
    "ff02::1": "multicast address",
}

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2001:200::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_an_address_that_is_not_public_is_refused_with_its_kind(text: str, reason: str) -> None:
    assert addresses.refusal(ipaddress.ip_address(text)) == reason


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_passes_also_next_to_a_refused_range(text: str) -> None:
    assert addresses.refusal(ipaddress.ip_address(text)) is None


def test_what_python_learns_to_be_special_after_us_is_refused() -> None:
    class Reserved(ipaddress.IPv4Address):
        is_global = False

    assert addresses.refusal(Reserved("8.8.8.8")) == "not a public address"


@unhurried
@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("192.0.0.9"))
def test_whatever_python_calls_special_in_ipv4_is_refused(address: ipaddress.IPv4Address) -> None:
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or not address.is_global
    )
    if special:
        assert addresses.refusal(address) is not None


@unhurried
@given(st.ip_addresses(v=6))
@example(ipaddress.IPv6Address("fec0::1"))
def test_only_global_unicast_passes_in_ipv6(address: ipaddress.IPv6Address) -> None:
    if addresses.refusal(address) is None:
        assert address in ipaddress.IPv6Network("2000::/3")
        assert address.is_global
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None


@unhurried
@given(st.ip_addresses(v=4), st.sampled_from(["::", "::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "::ffff:0:0:0"]))
def test_an_ipv4_address_within_an_ipv6_address_never_passes(inner: ipaddress.IPv4Address, prefix: str) -> None:
    outer = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(inner))
    assert addresses.refusal(outer) is not None


@unhurried
@given(st.ip_addresses(v=4), st.integers(min_value=0, max_value=(1 << 80) - 1))
def test_6to4_never_passes_whatever_it_carries(inner: ipaddress.IPv4Address, rest: int) -> None:
    outer = ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80) | rest)
    assert addresses.refusal(outer) == "6to4 address"


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_a_name_that_has_such_an_address_is_refused_like_the_address(text: str, reason: str) -> None:
    async def resolve(name: str) -> list[addresses.IPAddress]:
        return [ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address(text)]

    with pytest.raises(Refused) as caught:
        asyncio.run(resolver.checked_addresses(Target("evil.test", 80), Policy(), resolve))
    assert (str(caught.value), caught.value.kind) == (reason, RefusalKind.ADDRESS)


HOST_WITH_PUBLIC_ADDRESS = """
import ctypes, fcntl, ipaddress, os, socket, struct, sys
from sandbox.egress.policy import Policy, Refused, Target

NEW_USER, NEW_NET, SET_ADDRESS, SET_FLAGS, UP = 0x10000000, 0x40000000, 0x8916, 0x8914, 1
if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NET) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
own = "93.184.216.34"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:
    fcntl.ioctl(interface, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
    alias = struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(own))
    fcntl.ioctl(interface, SET_ADDRESS, alias)
for text in (own, "93.184.217.1"):
    try:
        Policy().check_address(Target("api.test", 443), ipaddress.ip_address(text))
        print("passes")
    except Refused as refused:
        print(refused.kind, refused)
"""


def test_a_public_address_of_this_host_is_refused() -> None:
    """In a network of its own, whose one interface has a public address."""
    done = subprocess.run([sys.executable, "-c", HOST_WITH_PUBLIC_ADDRESS], cwd=ROOT, capture_output=True, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)
    assert done.stdout.splitlines() == [b"address address of this host", b"passes"]


def test_an_address_of_this_host_is_known_as_its_own() -> None:
    assert addresses.is_own(ipaddress.ip_address("127.0.0.1"))
    assert not addresses.is_own(ipaddress.ip_address("192.0.2.77"))


def test_a_route_that_does_not_exist_is_not_taken_for_an_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert not addresses.is_own(ipaddress.ip_address("127.0.0.1"))
