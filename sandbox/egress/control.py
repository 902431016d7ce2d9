"""The launcher's side: one JSON object a line, both ways, over a socketpair.

    {"op": "open", "slot": "s3", "path": ".../egress.sock"}    listen there for the slot
    {"op": "assign", "slot": "s3", "policy": {...}, "group": "g1"}    a run begins; see policy.Policy and group.py
        with "notify": true, once the jail connects:           -> {"slot": "s3", "used": true}
    {"op": "release", "slot": "s3"}                            it is over
        -> {"slot": "s3", "bytes_in": 0, "bytes_out": 0, "refused_counts": {"address": 1},
            "refused": [{"host": "", "port": 0, "reason": "", "kind": "address"}]}
    {"op": "close", "slot": "s3"}                              stop listening

Lines are carried out in order and as soon as they arrive, so an `assign` that was written before the jail
learnt of its run holds for the run's first connection: what a connection says is read a turn of the event loop
after it was accepted, and the line by then. A line that cannot be carried out is answered with
{"slot": ..., "op": ..., "error": "..."}; a slot whose `assign` failed refuses everything. When the launcher
closes its end, the process ends.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from sandbox.egress import resolver
from sandbox.egress.connection import MAX_SOCKETS, Connection
from sandbox.egress.group import Groups
from sandbox.egress.policy import Policy
from sandbox.egress.slot import Report, Slot

_MAX_LINE = 1 << 20


def bind(path: Path) -> socket.socket:
    """A listening socket at `path` that whoever may pass its folder may connect to; an old one there is replaced.

    Binds through a descriptor of the folder, since a unix address holds 107 bytes and a home may be longer.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        # The jail's user is nobody to us. What keeps others out is the folder, which only the slot's user id and
        # this process may pass; see sandbox/slots.py.
        path.chmod(0o666)
        listener.listen(MAX_SOCKETS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


class Door:
    """A slot with the socket file that leads to it."""

    def __init__(self, path: Path, slot: Slot) -> None:
        self.slot = slot
        self._path = path
        self._listener = bind(path)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        self._accepting.add_done_callback(lambda _: self._listener.close())

    async def _accept(self) -> None:
        # Not create_unix_server: from 3.13 on it looks for the bound path, which is no longer valid.
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(self.slot), sock=self._listener, backlog=MAX_SOCKETS)
        async with server:
            await server.serve_forever()

    def close(self) -> None:
        self._accepting.cancel()
        self.slot.release()
        self._path.unlink(missing_ok=True)


class Control(asyncio.Protocol):
    """Carries out the launcher's lines. `ended` is set when the launcher is gone."""

    def __init__(self, groups: Groups, resolve: resolver.Resolve = resolver.system) -> None:
        self.ended = asyncio.Event()
        self._groups = groups
        self._resolve = resolve
        self._doors: dict[str, Door] = {}
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._ops: dict[str, Callable[[str, dict[str, object]], Report | None]] = {
            "open": self._open,
            "assign": self._assign,
            "release": self._release,
            "close": self._close,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._reply(self._carry_out(bytes(line)))
        if len(self._buffer) > _MAX_LINE:
            raise ValueError(f"a line of the launcher is longer than {_MAX_LINE} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        self.ended.set()

    def _carry_out(self, line: bytes) -> dict[str, object] | None:
        slot = op = None
        try:
            message = json.loads(line)
            slot, op = message["slot"], message["op"]
            report = self._ops[op](slot, message)
        except (KeyError, TypeError, ValueError, OSError) as error:
            return {"slot": slot, "op": op, "error": f"{type(error).__name__}: {error}"}
        return None if report is None else {"slot": slot, **report.as_json()}

    def _reply(self, message: dict[str, object] | None) -> None:
        if message is not None and self._transport is not None:
            self._transport.write(json.dumps(message).encode() + b"\n")

    def _open(self, name: str, message: dict[str, object]) -> None:
        if name in self._doors:
            raise ValueError(f"slot {name!r} is open already")
        self._doors[name] = Door(Path(str(message["path"])), Slot(self._resolve, self._groups))

    def _assign(self, name: str, message: dict[str, object]) -> None:
        slot = self._doors[name].slot
        slot.release()
        policy = message["policy"]
        if not isinstance(policy, dict):
            raise ValueError(f"policy must be an object, not {policy!r}")
        group = message.get("group")
        if not isinstance(group, str | None):
            raise ValueError(f"group must be a string or null, not {group!r}")
        slot.assign(Policy.from_json(policy), group)
        if message.get("notify"):
            slot.on_first_use = lambda: self._reply({"slot": name, "used": True})

    def _release(self, name: str, message: dict[str, object]) -> Report:
        return self._doors[name].slot.release()

    def _close(self, name: str, message: dict[str, object]) -> None:
        self._doors.pop(name).close()
