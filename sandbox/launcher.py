"""python -m sandbox.launcher: the one process of a host that boots, keeps, hands out and reaps jails.

Single-threaded on purpose: nothing in it waits, and nothing needs a lock. Jails die with it. Workers connect
over a unix socket, one connection per run under way, and get the host's ends of a jail's pipes as descriptors.
When a connection closes, its jail is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox import cgroups, environment, nsjail, place, protocol, proxylink, rootfs, runtimes, selftest
from sandbox.config import ConfigError, SandboxConfig
from sandbox.demand import Demand, Shape
from sandbox.lease import Account, Jail, Request, Waiter
from sandbox.loop import Loop
from sandbox.memory import Memory
from sandbox.pool import Pool
from sandbox.roots import Roots
from sandbox.runtimes import Runtime
from sandbox.slots import Slots

DRAIN_S = 35.0
"""After SIGTERM running jobs may go on for this long; a second signal ends them at once."""
WARM_MB = 256
"""The size of script for which jails are ready before the first one is asked for."""
MOST_PER_CORE = 4
"""Jails of one shape that are kept ready, at the height of a burst."""
_REFUSED_SHOWN = 64
_log = logging.getLogger("millrace.launcher")


class StartError(Exception):
    """The launcher can't start; the message says why and how to mend it."""


class _Connection:
    """One worker thread's line. It holds at most one jail at a time."""

    def __init__(self, launcher: Launcher, peer: socket.socket) -> None:
        self._launcher = launcher
        self._socket = peer
        self._jail: Jail | None = None
        self._waiter: Waiter | None = None
        self._accounting = False
        self._last = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def on_readable(self) -> None:
        try:
            packet = self._socket.recv(protocol.MESSAGE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        try:
            self._on_message(protocol.decode_message(packet))
        except (KeyError, TypeError, ValueError, protocol.ProtocolError) as error:
            _log.error("a worker sent %.200r: %s", packet, error)
            self.close()

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("op") == "figures" and self._jail is None and self._waiter is None:
            self._send(self._launcher.pool.figures())
        elif message.get("op") == "acquire" and self._jail is None and self._waiter is None:
            self._acquire(message)
        elif message.get("op") == "finish" and self._jail is not None:
            self._finish(self._jail, message)
        else:
            _log.error("a worker sent %.200r out of turn", message)
            self.close()

    def _acquire(self, message: dict[str, Any]) -> None:
        hosts = message["hosts"]
        request = Request(
            runtime=str(message["runtime"]),
            memory_mb=int(message["memory_mb"]),
            pids=int(message["pids"]),
            cpus=float(message["cpus"]),
            timeout_ms=int(message["timeout_ms"]),
            reuse_key=message["reuse_key"],
            hosts=None if hosts is None else tuple(hosts),
            egress_group=message.get("egress_group"),
            preloaded=bool(message.get("preloaded")),
        )
        if request.runtime not in self._launcher.roots.names:
            self._send({"error": f"there is no runtime {request.runtime!r}"})
            return
        waiter = self._launcher.pool.acquire(request, self._on_ready, self._on_failed)
        # Pool may have answered already.
        self._waiter = waiter if self._jail is None and not waiter.abandoned else None

    def _on_ready(self, chosen: Jail, origin: str) -> None:
        self._waiter = None
        self._jail = chosen
        self._send({"origin": origin}, chosen.process.pipes.all())

    def _on_failed(self, reason: str) -> None:
        if self._waiter is not None:
            self._waiter.abandoned = True
        self._waiter = None
        self._send({"error": reason})

    def _finish(self, used: Jail, message: dict[str, Any]) -> None:
        self._jail = None
        self._accounting = True
        state, ended = str(message["state"]), bool(message["ended"])
        self._launcher.pool.finish(used, state=state, ended=ended, done=self._on_account)

    def _on_account(self, account: Account) -> None:
        refused = list(account.traffic.refused)[:_REFUSED_SHOWN]
        self._send(
            {
                "cpu_ms": account.cpu_ms,
                "peak_memory_bytes": account.peak_memory_bytes,
                "oom_kills": account.oom_kills,
                "exit_code": account.exit_code,
                "bytes_in": account.traffic.bytes_in,
                "bytes_out": account.traffic.bytes_out,
                "refused": refused,
                "refused_counts": account.traffic.refused_counts,
            }
        )
        self._accounting = False
        if self._last:
            self.close()

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            socket.send_fds(self._socket, [protocol.encode_message(message)], descriptors)
        except OSError:
            # The worker is gone, or reads nothing: a packet fits its buffer many times over.
            self.close()

    def close_if_idle(self) -> None:
        """No further job may come over this line; the one under way, if any, goes on."""
        self._last = True
        if self._jail is None and not self._accounting:
            self.close()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._launcher.forget(self)
        self._socket.close()
        if self._waiter is not None:
            self._waiter.abandoned = True
        if self._jail is not None:
            held, self._jail = self._jail, None
            self._launcher.pool.abandon(held)


class Launcher:
    def __init__(self, config: SandboxConfig, offered: Mapping[str, Runtime]) -> None:
        """Prepare roots, groups and slots, clear what a crash left behind, and listen. Raises StartError.

        The first of the runtimes is the one that is kept warm from the start.
        """
        self._config = config
        self._loop = Loop()
        self._connections: set[_Connection] = set()
        self._stopping = False
        self.failed = False
        folder = config.home / "sandbox"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "launcher.lock")
        self._state_file = folder / "cgroups.json"
        self._tree = self._open_tree()
        seen = place.open_to_jails(folder)
        self.roots = Roots(self._loop, offered, folder / "roots", seen / "roots")
        probe_root = seen / selftest.build_probe_root(folder / "roots").relative_to(folder)
        self._proxy = (
            proxylink.ProxyLink(self._loop, config.egress_allow, self._on_proxy_exit, config.egress_limits)
            if proxylink.is_installed()
            else None
        )
        self._slots = Slots(folder / "slots", seen / "slots", self._tree, self._proxy)
        runtime, root = self.roots.prepared
        version, allow = self._tree.version, config.egress_allow
        self._check(selftest.quick(self._slots, runtime, root, probe_root, version, self._proxy, allow))
        most = max(config.warm_jails, MOST_PER_CORE * len(os.sched_getaffinity(0))) if config.warm_jails else 0
        wanted = Demand({Shape(runtime.name, WARM_MB): config.warm_jails}, most)
        self.pool = Pool(self._loop, self._slots, self.roots, wanted, self._proxy, Memory())
        self._listener = _listen(config.socket_path)
        self._loop.watch(self._listener.fileno(), self._on_connection)
        self._wake_up, wake = socket.socketpair()
        for end in (self._wake_up, wake):
            end.setblocking(False)
        self._signal_end = wake
        self._loop.watch(self._wake_up.fileno(), self._on_signal)

    def _open_tree(self) -> cgroups.Tree:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            cgroups.clear(json.loads(self._state_file.read_text()))
        name = "millrace-" + hashlib.sha256(str(self._config.home).encode()).hexdigest()[:12]
        try:
            tree = cgroups.open_tree(name)
        except cgroups.CgroupsUnavailable as error:
            if self._config.mode == "strict":
                raise StartError(f"memory, pids and cpu of scripts cannot be limited: {error}") from error
            _log.warning("memory, pids and cpu of scripts are NOT limited: %s", error)
            return cgroups.NoTree()
        self._state_file.write_text(json.dumps(tree.paths()))
        # One of the same name may be full of a crashed launcher's jails.
        tree.remove()
        return cgroups.open_tree(name)

    def _check(self, findings: list[selftest.Finding]) -> None:
        _log.info("sandbox: %s", selftest.summary(findings))
        missing = [finding for finding in findings if not finding.holds]
        for finding in missing:
            _log.error("sandbox: %s does not hold: %s. %s", finding.layer, finding.detail, finding.remedy)
        if missing and self._config.mode == "strict":
            self.discard()
            raise StartError(
                "the sandbox's self-test failed: "
                + "; ".join(f"{finding.layer}: {finding.detail}. {finding.remedy}" for finding in missing)
                + " (MILLRACE_SANDBOX_MODE=permissive starts all the same)"
            )

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then end everything and return."""
        signal.set_wakeup_fd(self._signal_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.pool.refill()
        _log.info("listening on %s", self._config.socket_path)
        self._loop.run()
        self.discard()

    def discard(self) -> None:
        """Remove what this launcher made outside of its own process."""
        self.roots.close()
        if self._proxy is not None:
            self._proxy.close()
        self._slots.remove()
        try:
            self._tree.remove()
        except cgroups.CgroupsUnavailable as error:
            # The state file stays: the next start clears what it names.
            _log.error("%s", error)
            return
        self._state_file.unlink(missing_ok=True)

    def forget(self, connection: _Connection) -> None:
        self._loop.unwatch(connection.fileno())
        self._connections.discard(connection)
        if self._stopping and not self._connections:
            self._end()

    def _on_connection(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError as error:
            _log.error("a worker could not connect: %s", error)
            return
        peer.setblocking(False)
        connection = _Connection(self, peer)
        self._connections.add(connection)
        self._loop.watch(peer.fileno(), connection.on_readable)

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_up.recv(64)
        if self._stopping:
            self._end()
            return
        self._stopping = True
        _log.info("stopping: running jobs have %d s", DRAIN_S)
        self._loop.unwatch(self._listener.fileno())
        self._config.socket_path.unlink(missing_ok=True)
        self._listener.close()
        self.pool.drain()
        self._loop.later(DRAIN_S, self._end)
        for connection in list(self._connections):
            connection.close_if_idle()
        if not self._connections:
            self._end()

    def _on_proxy_exit(self) -> None:
        _log.error("the egress process ended by itself; stopping, since scripts have no way out")
        self.failed = True
        self._end()

    def _end(self) -> None:
        self.pool.close(self._loop.stop)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(f"another launcher serves this home already: it holds {path}") from None
    return descriptor


def _listen(path: Path) -> socket.socket:
    """Bind through the folder's descriptor: a unix address holds 108 bytes, a home may be longer.

    The socket gets its name last: whoever finds it is listened to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{draft.name}")
    finally:
        os.umask(mask)
        os.close(folder)
    listener.listen(128)
    listener.setblocking(False)
    draft.replace(path)
    return listener


class _JsonLines(logging.Formatter):
    """One JSON object a line, with the keys of the platform's other processes."""

    def format(self, record: logging.LogRecord) -> str:
        whole, micros = divmod(int(record.created * 1_000_000), 1_000_000)
        line = {
            "process": "launcher",
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micros:06d}Z",
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _set_up_logging(plain: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s") if plain else _JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _offered(names: Sequence[str]) -> Mapping[str, Runtime]:
    """The runtimes of these names, or all that are installed, the default one first. Raises StartError."""
    try:
        chosen = {name: runtimes.named(name) for name in names or (runtimes.DEFAULT,)}
    except runtimes.UnknownRuntime as error:
        raise StartError(
            f"{error}. `make setup` installs Node's runtimes; Python's are the interpreters of this host"
        ) from error
    return chosen if names else {**chosen, **runtimes.load_all()}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.launcher", description=__doc__)
    parser.add_argument("--plain", action="store_true", help="log text for people instead of JSON lines")
    parser.add_argument("--runtime", action="append", default=[], help="offer this one only; may be repeated")
    options = parser.parse_args(arguments)
    _set_up_logging(plain=options.plain)
    _log.info("launcher %d starts", os.getpid())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        config = SandboxConfig.from_env(os.environ)
        environment.drop_the_rest(os.environ)
        launcher = Launcher(config, _offered(options.runtime))
    except (
        StartError,
        ConfigError,
        rootfs.RootfsError,
        nsjail.NsjailMissing,
        cgroups.CgroupsUnavailable,
    ) as error:
        print(f"sandbox.launcher: {error}", file=sys.stderr)
        # A wrong setting is not mended by a new start; the host's trouble may be.
        return os.EX_CONFIG if isinstance(error, ConfigError) else 1
    launcher.serve()
    return 1 if launcher.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
