"""A real egress process, and servers for it to reach."""

import asyncio
import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox.egress import resolver
from sandbox.egress.addresses import IPAddress
from sandbox.egress.control import Control
from sandbox.egress.group import NO_LIMITS, Clock, Groups, Limits

ROOT = Path(__file__).parents[2]
NODE_RUNTIME = ROOT / "sandbox" / "runtimes" / "node"
NODE = NODE_RUNTIME / "node_modules" / "node20" / "bin" / "node"
DEADLINE = 30.0


class EgressProcess:
    """`python -m sandbox.egress`, as the launcher starts and leads it."""

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox.egress", str(theirs.fileno()), json.dumps(limits.as_json())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        ours.settimeout(DEADLINE)
        self._socket = ours
        self._replies = ours.makefile("rb")

    def send(self, **message: object) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def reply(self) -> dict[str, Any]:
        reply = json.loads(self._replies.readline())
        assert isinstance(reply, dict)
        return reply

    def release(self, slot: str) -> dict[str, Any]:
        self.send(op="release", slot=slot)
        return self.reply()

    def stop(self) -> bytes:
        """Lets go as a launcher that ends does, and returns what the process wrote to stderr."""
        self._replies.close()
        self._socket.close()
        return self.process.communicate(timeout=DEADLINE)[1]


NOTHING: dict[str, Any] = {"bytes_in": 0, "bytes_out": 0, "refused": [], "refused_counts": {}}
"""What is said of a run that did nothing, beside its slot."""


@contextlib.contextmanager
def egress(limits: Limits = NO_LIMITS) -> Iterator[EgressProcess]:
    process = EgressProcess(limits)
    try:
        yield process
    finally:
        complaints = process.stop()
        assert complaints == b""
        assert process.process.returncode == 0


@dataclass
class Door:
    """One slot of an egress process, with its socket."""

    egress: EgressProcess
    slot: str
    path: Path

    def assign(self, group: str | None = None, **policy: object) -> None:
        self.egress.send(op="assign", slot=self.slot, policy=policy, group=group)

    def release(self) -> dict[str, Any]:
        return self.egress.release(self.slot)

    def connect(self) -> socket.socket:
        return connect_to(self.path)

    def ask(self, head: bytes) -> bytes:
        """Sends a head and returns all that comes back until the proxy closes."""
        with self.connect() as client:
            client.sendall(head)
            return read_all(client)


@contextlib.contextmanager
def door(process: EgressProcess, folder: Path, slot: str = "s1") -> Iterator[Door]:
    path = folder / "egress.sock"
    process.send(op="open", slot=slot, path=str(path))
    assert process.release(slot) == {"slot": slot, **NOTHING}
    yield Door(process, slot, path)
    process.send(op="close", slot=slot)


class Names:
    """A resolver whose answers a test chooses; it runs within the test's own process."""

    def __init__(self, **names: list[str] | socket.gaierror) -> None:
        self.answers = {name.replace("__", "."): answer for name, answer in names.items()}
        self.asked: list[str] = []

    async def resolve(self, name: str) -> list[IPAddress]:
        self.asked.append(name)
        answer = self.answers.get(name, socket.gaierror(socket.EAI_NONAME, "unknown"))
        if isinstance(answer, socket.gaierror):
            raise answer
        return [ipaddress.ip_address(text) for text in answer]


@contextlib.contextmanager
def local_door(folder: Path, resolve: resolver.Resolve) -> Iterator["LocalDoor"]:
    """A slot whose proxy runs on a thread of the test, with the resolver given."""
    with local_doors(folder, resolve) as open_door:
        yield open_door("s1")


@contextlib.contextmanager
def local_doors(
    folder: Path, resolve: resolver.Resolve, limits: Limits = NO_LIMITS, clock: Clock = time.monotonic
) -> Iterator[Callable[[str], "LocalDoor"]]:
    """Opens slots by name; their proxy runs on a thread of the test, with the resolver, limits and clock given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    control = Control(Groups(limits, clock), resolve)
    transport = RecordingTransport()

    def tell(**message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        asyncio.run_coroutine_threadsafe(call(control.data_received, line), loop).result(DEADLINE)

    def open_door(slot: str) -> LocalDoor:
        path = folder / f"{slot}.sock"
        tell(op="open", slot=slot, path=str(path))
        return LocalDoor(slot, path, tell, transport)

    loop.call_soon_threadsafe(control.connection_made, transport)
    try:
        yield open_door
    finally:
        asyncio.run_coroutine_threadsafe(call(control.connection_lost, None), loop).result(DEADLINE)
        asyncio.run_coroutine_threadsafe(drain(), loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def call(function: Callable[..., None], *arguments: object) -> None:
    function(*arguments)


async def drain() -> None:
    """Lets what was cancelled end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class RecordingTransport(asyncio.Transport):
    """Keeps the replies of a control connection."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[dict[str, Any]] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.replies.append(json.loads(bytes(data)))


@dataclass
class LocalDoor:
    """One slot of a proxy on a thread."""

    slot: str
    path: Path
    tell: Callable[..., None]
    transport: RecordingTransport

    def assign(self, group: str | None = None, **policy: object) -> None:
        self.tell(op="assign", slot=self.slot, policy=policy, group=group)

    def release(self) -> dict[str, Any]:
        self.tell(op="release", slot=self.slot)
        return self.transport.replies.pop()

    def connect(self) -> socket.socket:
        return connect_to(self.path)

    def ask(self, head: bytes) -> bytes:
        with self.connect() as client:
            client.sendall(head)
            return read_all(client)


def connect_to(path: Path) -> socket.socket:
    """A connection to a unix socket, however long its path is."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE)
    folder = os.open(path.parent, os.O_PATH)
    try:
        client.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    return client


def read_all(client: socket.socket) -> bytes:
    chunks = []
    while chunk := client.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def read_head(client: socket.socket) -> bytes:
    """Reads up to an empty line, byte by byte, so that nothing after it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            break
        head += byte
    return head


class Handler(http.server.BaseHTTPRequestHandler):
    """Echoes requests, redirects, and sends bodies of any size."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.path.startswith("/redirect?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/bytes/"):
            self._respond(b"x" * int(self.path.removeprefix("/bytes/")), "application/octet-stream")
        elif self.path == "/never":
            self.rfile.read(1)  # until the client goes away
        elif self.headers.get("Upgrade") == "echo":
            self._echo()
        else:
            seen = {
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body_length": length,
                "body": body[:100].decode("latin-1"),
                "port": self.client_address[1],
            }
            self._respond(json.dumps(seen).encode(), "application/json")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _respond(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _echo(self) -> None:
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.wfile.write(b"hello ")
        while chunk := self.connection.recv(4096):
            self.wfile.write(chunk)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what some tests are about


@contextlib.contextmanager
def http_server(tls: ssl.SSLContext | None = None, handler: type[Handler] = Handler) -> Iterator[int]:
    """An HTTP or HTTPS server on loopback; its port."""
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def tcp_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on loopback that gives each connection to `serve` on a thread of its own; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[client], daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and a server context with a certificate from it for api.test and 127.0.0.1."""

    ca_file: Path
    server: ssl.SSLContext


# Python from 3.13 on is strict about what an authority says of itself.
SIGNING = x509.KeyUsage(
    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


def make_authority(folder: Path) -> Authority:
    """A new authority whose files are in `folder`; it is good for an hour."""
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    pem = serialization.Encoding.PEM

    def certificate(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = certificate(issuer, ca_key.public_key()).add_extension(constraints, True).add_extension(SIGNING, True)
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))

    key = ec.generate_private_key(ec.SECP256R1())
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    names = x509.SubjectAlternativeName([x509.DNSName("api.test"), loopback])
    leaf = certificate(x509.Name([]), key.public_key()).add_extension(names, True)
    (folder / "server.pem").write_bytes(
        leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return Authority(folder / "ca.pem", context)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


PRELUDE = """
'use strict';
require(process.env.EGRESS_JS).install({ socket: process.env.EGRESS_SOCKET });
const print = (value) => require('fs').writeSync(1, JSON.stringify(value));
const about = (e) => ({ name: e.name, code: e.code, message: e.message, hostname: e.hostname, port: e.port,
                        cause: e.cause && about(e.cause) });
const env = process.env;
(async () => {
%s
})().catch((error) => print({ uncaught: about(error) }));
"""


def run_node(body: str, socket_path: Path, environ: Mapping[str, str] | None = None) -> Any:
    """What `body`, run by Node with the preload in place, gave to print()."""
    done = subprocess.run(
        [NODE, "-e", PRELUDE % body],
        cwd=NODE_RUNTIME,
        env={
            "EGRESS_JS": str(NODE_RUNTIME / "egress.js"),
            "EGRESS_SOCKET": str(socket_path),
            **(environ or {}),
        },
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == b"", done.stderr.decode()
    assert done.returncode == 0
    return json.loads(done.stdout)
