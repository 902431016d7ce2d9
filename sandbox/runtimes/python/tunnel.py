"""Turns a socket's connect() into "ask the egress proxy for a tunnel".

A second, private socket speaks to the proxy. Once the proxy has said 200, its descriptor takes the place of the one
that the client holds. So TLS wraps the tunnel natively, and no byte of the proxy's answer reaches the client.

Names have no address in here: getaddrinfo() gives the name itself, and connect() passes it on to the proxy.
"""

from __future__ import annotations

import errno
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future
    from asyncio.selector_events import BaseSelectorEventLoop
    from types import ModuleType
    from typing import Any

_MAX_ANSWER = 16_384
_HEAD_END = b"\r\n\r\n"
_PORTS = {"http": 80, "https": 443}
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LEVELS = (socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6)
_KIND = 0xF  # the bits of a socket's type that are no flags

_peers: dict[int, tuple[Any, ...]] = {}
"""Address and port at the far end, by descriptor: a descriptor moves from one socket object to another for TLS."""

NativeSocket = socket.socket


def install(socket_path: str) -> None:
    Socket.proxy = socket_path
    socket.socket = Socket  # type: ignore[misc]
    socket.getaddrinfo = getaddrinfo
    socket.gethostbyname = gethostbyname


def install_in_loops(selector_events: ModuleType) -> None:
    """Give asyncio's loops ways of their own, since a wait for the proxy would stop them."""
    loop_class = selector_events.BaseSelectorEventLoop
    connect_natively = loop_class.sock_connect

    async def sock_connect(loop: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
        if not isinstance(sock, Socket) or not sock.is_tunnel:
            await connect_natively(loop, sock, address)
            return
        with _carrier() as carrier:
            carrier.setblocking(False)
            try:
                await connect_natively(loop, carrier, Socket.proxy)
            except OSError as error:
                raise _gone() from error
            await _connect_through(loop, carrier, sock, *_target(address))

    loop_class.sock_connect = sock_connect
    loop_class.getaddrinfo = _loop_getaddrinfo


def hang_up(descriptor: int) -> bool:
    """Whether this descriptor is a connection to the proxy, which is then ended.

    The proxy ends it after the run anyway, but a little later: a client of the next run could still take it for
    alive.
    """
    try:
        probe = NativeSocket(fileno=descriptor)
    except OSError:
        return False
    try:
        if probe.family != socket.AF_UNIX or probe.getpeername() != Socket.proxy_name:
            return False
        probe.shutdown(socket.SHUT_RDWR)
        return True
    except OSError:
        return False
    finally:
        probe.detach()


class Socket(NativeSocket):
    """A socket class whose TCP sockets are unix sockets inside."""

    proxy = ""
    proxy_name: Any = None
    """What the proxy calls its end, which is another path than the one in here; None before the first connection."""

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
        kind = socket.SOCK_STREAM if type == -1 else type & _KIND
        if fileno is None and kind == socket.SOCK_STREAM and family in (-1, *_INTERNET):
            inner = NativeSocket(socket.AF_UNIX, socket.SOCK_STREAM if type == -1 else type)
            blocking = inner.gettimeout()
            fileno = inner.detach()
            _peers.pop(fileno, None)
            super().__init__(socket.AF_INET if family == -1 else family, kind, max(proto, 0), fileno)
            self.settimeout(blocking)
        else:
            super().__init__(family, type, proto, fileno)

    @property
    def is_tunnel(self) -> bool:
        return self.family in _INTERNET and self.type == socket.SOCK_STREAM

    def connect(self, address: Any) -> None:
        if not self.is_tunnel:
            super().connect(address)
            return
        host, port = _target(address)
        with _carrier() as carrier:
            # A socket that does not block would have no way to be told when the proxy has answered.
            carrier.settimeout(self.gettimeout() or None)
            try:
                carrier.connect(Socket.proxy)
            except OSError as error:
                raise _gone() from error
            carrier.sendall(_request(host, port))
            answer = _Answer(host, port)
            while not answer.is_whole:
                answer.read(carrier)
            self.adopt(carrier, answer)

    def connect_ex(self, address: Any) -> int:
        if not self.is_tunnel:
            return super().connect_ex(address)
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.ECONNABORTED
        return 0

    def adopt(self, carrier: NativeSocket, answer: _Answer) -> None:
        """Raise the error that the proxy's answer is, or become the tunnel."""
        address = answer.address()
        carrier.setblocking(self.gettimeout() is None)
        Socket.proxy_name = carrier.getpeername()
        os.dup2(carrier.fileno(), self.fileno(), inheritable=False)
        _peers[self.fileno()] = _full(self.family, address, answer.port)

    def getpeername(self) -> Any:
        if not self.is_tunnel:
            return super().getpeername()
        super().getpeername()
        return _peers.get(self.fileno(), _full(self.family, "", 0))

    def getsockname(self) -> Any:
        return _full(self.family, "", 0) if self.is_tunnel else super().getsockname()

    def bind(self, address: Any) -> None:
        if self.is_tunnel:
            raise OSError(errno.EADDRNOTAVAIL, "scripts have no address of their own to bind to")
        super().bind(address)

    def setsockopt(self, level: int, *arguments: Any) -> None:
        # Options of a protocol that ends outside are taken and have no effect.
        if not (level in _LEVELS and self.is_tunnel):
            super().setsockopt(level, *arguments)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        if level in _LEVELS and self.is_tunnel:
            return bytes(buflen) if buflen else 0
        return super().getsockopt(level, optname, buflen) if buflen else super().getsockopt(level, optname)


# It stands in for the native one wherever its name is shown.
Socket.__name__ = Socket.__qualname__ = "socket"
Socket.__module__ = "socket"


def getaddrinfo(
    host: bytes | str | None,
    port: bytes | str | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[Any, ...]]:
    """The name itself for an address, since names are resolved outside only. Literals are what they are."""
    name = _ascii(host or "localhost")
    number = _port(port)
    kind = type & _KIND or socket.SOCK_STREAM
    proto = proto or (socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP)
    literal = _literal_family(name)
    if family and literal and family != literal:
        raise socket.gaierror(socket.EAI_FAMILY, "Address family for hostname not supported")
    found = socket.AddressFamily(family or literal or socket.AF_INET)
    return [(found, socket.SocketKind(kind), proto, "", _full(found, name, number))]


def gethostbyname(hostname: str) -> str:
    """The address that a literal is. Names have none in here."""
    name = _ascii(hostname)
    if _literal_family(name) != socket.AF_INET:
        raise socket.gaierror(socket.EAI_NONAME, f"{name} has no address in here: names are resolved outside")
    return name


def _literal_family(name: str) -> int:
    for family in _INTERNET:
        try:
            socket.inet_pton(family, name.partition("%")[0])
        except OSError:
            continue
        return family
    return 0


def _ascii(host: bytes | str) -> str:
    if isinstance(host, bytes | bytearray):
        return host.decode("ascii")
    return host if host.isascii() else host.encode("idna").decode()


def _port(port: bytes | str | int | None) -> int:
    text = port.decode("ascii") if isinstance(port, bytes) else port
    try:
        return _PORTS[text] if isinstance(text, str) and text in _PORTS else int(text or 0)
    except ValueError:
        raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype") from None


def _full(family: int, host: str, port: int) -> tuple[Any, ...]:
    if family == socket.AF_INET6:
        return (host or "::", port, 0, 0)
    return (host or "0.0.0.0", port)


def _carrier() -> NativeSocket:
    return NativeSocket(socket.AF_UNIX, socket.SOCK_STREAM)


def _target(address: Any) -> tuple[str, int]:
    if not isinstance(address, tuple) or len(address) < 2:
        raise TypeError(f"connect(): the address must be a tuple of host and port, not {address!r}")
    host, port = address[:2]
    if not isinstance(port, int):
        raise TypeError(f"connect(): the port must be an int, not {port!r}")
    if not 0 <= port <= 65535:
        raise OverflowError("connect(): port must be 0-65535.")
    name = _ascii(host or "localhost")
    if not name.isprintable() or " " in name:
        raise _not_found()
    return name, port


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _request(host: str, port: int) -> bytes:
    authority = _at(host, port)
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()


def _not_found() -> OSError:
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _gone() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "the egress proxy closed the connection")


class Refused(PermissionError):
    """The proxy's policy says no."""

    def __init__(self, message: str, where: str, reason: str, kind: str) -> None:
        super().__init__(errno.EACCES, message)
        self.egress_target = where
        self.egress_reason = reason
        self.egress_kind = kind


# Scripts know it as what it is one of.
Refused.__name__ = Refused.__qualname__ = "PermissionError"
Refused.__module__ = "builtins"


class _Answer:
    """What the proxy says before the tunnel begins."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.is_whole = False
        self._head = b""

    def read(self, carrier: NativeSocket) -> None:
        """Take what is there of the answer, and nothing of what the server said in the same breath."""
        seen = carrier.recv(_MAX_ANSWER, socket.MSG_PEEK)
        before = len(self._head)
        end = (self._head + seen).find(_HEAD_END)
        taken = len(seen) if end < 0 else end + len(_HEAD_END) - before
        self._head += carrier.recv(taken) if taken else b""
        self.is_whole = end >= 0
        if not seen or len(self._head) > _MAX_ANSWER:
            raise _gone()

    def address(self) -> str:
        """The address at the far end; raises OSError for an answer that is not 200."""
        first, *lines = self._head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if first.split(" ")[1:2] == ["200"]:
            return headers.get("x-egress-address", "")
        raise self._error(headers)

    def _error(self, headers: dict[str, str]) -> OSError:
        code, reason = headers.get("x-egress-code", ""), headers.get("x-egress-reason", "")
        if code == "ENOTFOUND":
            return _not_found()
        if code == "EAI_AGAIN":
            return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if code == "EGRESS_REFUSED":
            where = _at(self.host, self.port)
            return Refused(f"egress to {where} refused: {reason}", where, reason, headers.get("x-egress-kind", ""))
        number = getattr(errno, code, None)
        if isinstance(number, int):
            return OSError(number, os.strerror(number))
        return OSError(errno.EPROTO, f"egress to {_at(self.host, self.port)} failed: {reason}")


async def _loop_getaddrinfo(
    loop: BaseSelectorEventLoop, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> list[tuple[Any, ...]]:
    """Without the thread that a real look-up needs."""
    return socket.getaddrinfo(host, port, family, type, proto, flags)


async def _connect_through(
    loop: BaseSelectorEventLoop, carrier: NativeSocket, sock: Socket, host: str, port: int
) -> None:
    await loop.sock_sendall(carrier, _request(host, port))
    answer = _Answer(host, port)
    while not answer.is_whole:
        await _readable(loop, carrier)
        answer.read(carrier)
    sock.adopt(carrier, answer)


async def _readable(loop: BaseSelectorEventLoop, carrier: NativeSocket) -> None:
    ready: Future[None] = loop.create_future()
    loop.add_reader(carrier, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(carrier)
