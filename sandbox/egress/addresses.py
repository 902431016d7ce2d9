"""Which addresses are out of bounds, and why.

The table is our own: `ipaddress.is_global` differs between versions of Python and lets through some that it
should not (168.63.129.16, 3fff::/20, 5f00::/16, 64:ff9b::/96, multicast). It is asked last, as a second
opinion.
"""

import ipaddress
import socket

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED_V4 = tuple(
    (ipaddress.IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "unspecified address"),
        ("10.0.0.0/8", "private address"),
        ("100.64.0.0/10", "carrier-grade NAT address"),
        ("127.0.0.0/8", "loopback address"),
        ("168.63.129.16/32", "cloud metadata address"),
        ("169.254.0.0/16", "link-local address"),
        ("172.16.0.0/12", "private address"),
        ("192.0.0.0/24", "reserved address"),
        ("192.0.2.0/24", "documentation address"),
        ("192.88.99.0/24", "6to4 relay address"),
        ("192.168.0.0/16", "private address"),
        ("198.18.0.0/15", "benchmarking address"),
        ("198.51.100.0/24", "documentation address"),
        ("203.0.113.0/24", "documentation address"),
        ("224.0.0.0/4", "multicast address"),
        ("240.0.0.0/4", "reserved address"),
    )
)

# Order matters: the first match gives the reason.
_REFUSED_V6 = tuple(
    (ipaddress.IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified address"),
        ("::1/128", "loopback address"),
        ("::ffff:0:0/96", "IPv4-mapped address"),
        ("::/96", "IPv4-compatible address"),
        ("64:ff9b::/96", "NAT64 address"),
        ("64:ff9b:1::/48", "NAT64 address"),
        ("fc00::/7", "private address"),
        ("fe80::/10", "link-local address"),
        ("fec0::/10", "site-local address"),
        ("ff00::/8", "multicast address"),
        ("2001::/32", "Teredo address"),
        ("2001::/23", "reserved address"),
        ("2001:db8::/32", "documentation address"),
        ("2002::/16", "6to4 address"),
        ("3fff::/20", "documentation address"),
    )
)

_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")


def refusal(address: IPAddress) -> str | None:
    """Why `address` may not be reached, in two or three words; None for a public unicast address."""
    if isinstance(address, ipaddress.IPv4Address):
        listed = next((reason for network, reason in _REFUSED_V4 if address in network), None)
    elif address.scope_id is not None:
        listed = "scoped address"
    else:
        listed = next((reason for network, reason in _REFUSED_V6 if address in network), None)
        if listed is None and address not in _UNICAST_V6:
            listed = "reserved address"
    if listed is None and not address.is_global:
        return "not a public address"
    return listed


def is_own(address: IPAddress) -> bool:
    """Whether `address` belongs to this host.

    Asks the kernel for its route: a packet to an own address leaves from that same address. Nothing is sent.
    """
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False  # no route: dialling it will say so
