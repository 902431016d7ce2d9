"""What one run may reach: its host allow-list, the operator's exemptions, and caps."""

import enum
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.egress import addresses
from sandbox.egress.addresses import IPAddress, IPNetwork

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_PORT = 65_535
_MAX_NAME = 253


# What browsers refuse to speak HTTP to: a server of another protocol may take a request for its own commands. Mail is
# among them, since what is sent from here would be sent in the operator's name.
_FOREIGN_PORTS = frozenset((
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
))  # fmt: skip


class RefusalKind(enum.StrEnum):
    """Which rule said no, in a word that never changes: it labels metrics."""

    NO_RUN = "no_run"
    BAD_HOST = "bad_host"
    """Neither a plain name nor a plain address, or with user information."""
    PORT = "port"
    HOST_LIST = "host_list"
    ADDRESS = "address"
    CONNECTIONS = "connections"
    """The run's own limit, as is BYTES."""
    BYTES = "bytes"
    GROUP_CONNECTIONS = "group_connections"
    GROUP_RATE = "group_rate"
    GROUP_BYTES = "group_bytes"


class Refused(Exception):
    """The policy says no. The text is the reason that the script's author reads."""

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Target:
    """A host and a port that somebody asked for. `host` is a name in lower case or the text of `address`."""

    host: str
    port: int
    address: IPAddress | None = None


def parse_host(text: str) -> tuple[str, IPAddress | None]:
    """A host name in lower case, or an address literal in its usual form, with the address.

    Raises Refused for anything else. A name's last label must start with a letter, which alone shuts out
    every other spelling of an address: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
    """
    literal = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(literal)
    except ValueError:
        return _parse_name(text), None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise Refused(RefusalKind.ADDRESS, "scoped address")
    return str(address), address


def _parse_name(text: str) -> str:
    name = text.lower()
    labels = name.split(".")
    # The text itself: a Kelvin sign in lower case is a k.
    if not text.isascii() or len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise Refused(RefusalKind.BAD_HOST, "not a valid host name")
    if not labels[-1][0].isalpha():
        raise Refused(RefusalKind.BAD_HOST, "not a valid host name: its last label must start with a letter")
    return name


def parse_port(text: str) -> int:
    """A port from 1 to 65535, or Refused."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT))
    if not digits or not 0 < int(text) <= _MAX_PORT:
        raise Refused(RefusalKind.PORT, "not a valid port")
    return int(text)


def parse_target(authority: str, default_port: int | None = None) -> Target:
    """`host:port`, `[v6]:port`, and `host` alone when there is a default port. Raises Refused."""
    if "@" in authority:
        raise Refused(RefusalKind.BAD_HOST, "user information is not allowed in an authority")
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        if default_port is None:
            raise Refused(RefusalKind.PORT, "no port")
        host, port = authority, str(default_port)
    if ":" in host and not host.startswith("["):
        raise Refused(RefusalKind.BAD_HOST, "not a valid host name: an IPv6 address needs brackets")
    name, address = parse_host(host)
    return Target(name, parse_port(port), address)


@dataclass(frozen=True)
class HostPattern:
    """A host name, an address literal, or `*.name`: every name below `name`, but not `name` itself."""

    host: str
    wildcard: bool = False

    @classmethod
    def parse(cls, text: str) -> "HostPattern":
        wildcard = text.startswith("*.")
        try:
            host, address = parse_host(text[2:] if wildcard else text)
        except Refused as error:
            raise ValueError(f"{text!r}: {error}") from None
        if wildcard and address is not None:
            raise ValueError(f"{text!r}: a wildcard needs a host name")
        return cls(host, wildcard)

    def matches(self, target: Target) -> bool:
        if self.wildcard:
            return target.address is None and target.host.endswith("." + self.host)
        return target.host == self.host


@dataclass(frozen=True)
class Exemption:
    """One of the operator's exemptions: a host pattern or a network, on one port or on all."""

    hosts: HostPattern | None
    network: IPNetwork | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Exemption":
        """`host`, `*.host`, `address`, `network`, with or without `:port`; IPv6 with one needs brackets."""
        where, port = _split_port(text)
        try:
            return cls(None, ipaddress.ip_network(where), port)
        except ValueError as error:
            if "/" in where:
                raise ValueError(f"{text!r}: {error}") from None
        return cls(HostPattern.parse(where), None, port)

    def covers(self, target: Target, address: IPAddress) -> bool:
        if self.port is not None and self.port != target.port:
            return False
        if self.hosts is not None:
            return self.hosts.matches(target)
        return self.network is not None and address in self.network


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        where, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r}: not an address in brackets")
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        where, port = text.split(":")
    else:
        where, port = text, None
    if port is None:
        return where, None
    try:
        return where, parse_port(port)
    except Refused as error:
        raise ValueError(f"{text!r}: {error}") from None


@dataclass(frozen=True)
class Policy:
    """What the run in a slot may reach. Times are in seconds, `max_bytes` counts both directions together."""

    hosts: tuple[HostPattern, ...] | None = None
    allow: tuple[Exemption, ...] = ()
    max_connections: int = 64
    max_bytes: int = 1 << 30
    connect_timeout: float = 10.0
    idle_timeout: float = 300.0

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "Policy":
        """A policy from the launcher's message. Raises ValueError that names the field and the value."""
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"policy: unknown field {unknown[0]!r}")
        hosts = None if data.get("hosts") is None else _strings(data, "hosts")
        return cls(
            hosts=None if hosts is None else tuple(map(HostPattern.parse, hosts)),
            allow=tuple(map(Exemption.parse, _strings(data, "allow"))),
            max_connections=int(_positive(data, "max_connections", cls.max_connections)),
            max_bytes=int(_positive(data, "max_bytes", cls.max_bytes)),
            connect_timeout=_positive(data, "connect_timeout", cls.connect_timeout),
            idle_timeout=_positive(data, "idle_timeout", cls.idle_timeout),
        )

    def check_host(self, target: Target) -> None:
        """Raises Refused when the run's host allow-list does not name the target."""
        if self.hosts is None or any(pattern.matches(target) for pattern in self.hosts):
            return
        if not self.hosts:
            raise Refused(RefusalKind.HOST_LIST, "the script has no network access")
        raise Refused(RefusalKind.HOST_LIST, "host is not on the script's allow-list")

    def check_address(self, target: Target, address: IPAddress) -> None:
        """Raises Refused when `address`, which the target resolved to, is neither public nor exempted.

        A port of another protocol than HTTP is open to an exemption alone as well.
        """
        if any(exemption.covers(target, address) for exemption in self.allow):
            return
        if target.port in _FOREIGN_PORTS:
            raise Refused(RefusalKind.PORT, f"port {target.port} belongs to another protocol than HTTP")
        reason = addresses.refusal(address) or ("address of this host" if addresses.is_own(address) else None)
        if reason:
            raise Refused(RefusalKind.ADDRESS, reason)


def _strings(data: Mapping[str, object], field: str) -> list[str]:
    value = data.get(field, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"policy: {field} must be a list of strings, not {value!r}")
    return value


def _positive(data: Mapping[str, object], field: str, default: float) -> float:
    value = data.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"policy: {field} must be a positive number, not {value!r}")
    return value
