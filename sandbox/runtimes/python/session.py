"""Says that it is ready, waits for a job, runs its handler and answers; then it waits for the next job of the same
script. Everything that it needs is captured before a script is loaded.

Nothing here is a wall: a script that takes this process over can lie about its own result, nothing more.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time

from . import channel, context, egress, errors, leftovers, logs, modules, offers, result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType
    from typing import Any, NoReturn

_EGRESS_SOCKET = "/run/egress.sock"
_REHEARSALS = 4
_CO_COROUTINE = 0x80
_LISTED_NAMES = 20
_WRAPPERS = 20
_RECURSION = sys.getrecursionlimit()
_parse = json.JSONDecoder().decode
_clock = context.clock
_environ, _tzset = os.environ, time.tzset
_settrace, _setprofile = sys.settrace, sys.setprofile
_getrecursionlimit, _setrecursionlimit = sys.getrecursionlimit, sys.setrecursionlimit


class _Failure(Exception):
    """The run ends with this kind of error."""

    def __init__(self, kind: str, told: errors.Described) -> None:
        self.kind = kind
        self.told = told


class Session:
    """One jail's life."""

    def __init__(self, packages: str) -> None:
        """`packages` is the folder of the libraries."""
        self._packages = packages
        self._environment = {"HOME": "/tmp", "TZ": "UTC", "SSL_CERT_FILE": f"{packages}/certifi/cacert.pem"}
        # Kept for the next job, as is the state of the script's modules.
        self._script = modules.Script({}, "main.py")
        self._members: Mapping[str, Any] = {}
        self._recursion = _RECURSION
        """What the script's modules set for its handler."""

    def serve(self, preload: Sequence[str] = (), *, rehearse: bool = True) -> NoReturn:
        """Run jobs until the platform goes away. `preload` are the modules of a jail that is to have them ready.

        A rehearsal makes the first job faster, unless that waits already.
        """
        modules.install(self._packages)
        modules.after("logging", logs.attach)
        modules.after("threading", self._tell_of_threads)
        modules.after("asyncio", _prepare_loop)
        egress.install(_EGRESS_SOCKET)
        offers.install()
        for name in preload:
            __import__(name)
        if rehearse:
            self._rehearse()
        gc.freeze()  # what is here by now is no garbage of a script's
        channel.send(b"B", {})
        while True:
            frame_type, header, data = channel.read_frame()
            if frame_type == "J":
                self._execute(header, data)

    def _execute(self, job: dict[str, Any], data: bytes) -> None:
        arrived = _clock()
        logs.open_log(job["limits"]["log_bytes"])
        calls = context.Calls()
        try:
            value = self._run(job, data, calls, arrived)
            frame_type, fields = b"R", {"left": leftovers.find()}
        except _Failure as failure:
            frame_type, fields, value = b"E", _fields(failure.kind, failure.told), b""
        except BaseException as error:  # what a handler of signals raises, wherever it strikes
            frame_type, fields, value = b"E", _fields("exception", self._describe(error)), b""
        offers.end()
        calls.close()
        dropped = logs.close_log()
        channel.send(frame_type, {**fields, "log_dropped": dropped, "sdk_calls": calls.made}, value)

    def _run(self, job: dict[str, Any], data: bytes, calls: context.Calls, arrived: float) -> bytes:
        """The result's JSON text; raises _Failure."""
        is_first = job["files"] is not None
        told = job["context"].pop("sdk", None)
        run = offers.begin(told, calls)
        size = job["payload"]
        self._set_environment(job["env"])
        if is_first:
            self._load(job, data[size:])
        handler = self._find_handler(job["entry_point"])
        is_coroutine = _is_coroutine(handler)
        payload = _parse(data[:size].decode())
        kind = context.AsyncContext if is_coroutine else context.Context
        offered = kind(job, told, payload, calls, arrived)
        run.payload, run.is_async = payload, is_coroutine
        if is_coroutine or "asyncio" in sys.modules:
            _coroutines().prepare()  # again, if a handler has closed the loop
        if is_first:
            leftovers.remember()
        calls.entered = True
        channel.send(b"S", {})
        value = self._call(handler, payload, offered)
        try:
            return result.encode(value, job["limits"]["result_bytes"])
        except result.Unfit as unfit:
            raise _Failure(unfit.kind, errors.Described(unfit.name, unfit.message)) from None

    def _set_environment(self, env: Mapping[str, str]) -> None:
        wanted = {**self._environment, **env}
        if _environ == wanted:
            return
        zone = _environ.get("TZ")
        for name in _environ.keys() - wanted.keys():
            del _environ[name]
        _environ.update(wanted)
        if wanted["TZ"] != zone:
            _tzset()

    def _load(self, job: dict[str, Any], data: bytes) -> None:
        files = {}
        at = 0
        for path, size in job["files"]:
            files[path] = data[at : at + size]
            at += size
        self._script = modules.Script(files, job["main"])
        try:
            self._members = vars(self._script.load())
            self._recursion = _getrecursionlimit()
        except BaseException as error:  # the script's own, of any class
            raise self._failure("load_error", error) from None
        finally:
            _settrace(None)  # first, since it would hear of the call
            _quiet()

    def _find_handler(self, entry_point: str) -> Callable[..., Any]:
        name = entry_point.removeprefix(f"{self._script.stem}.")
        handler = self._members.get(name)
        if callable(handler):
            return handler  # type: ignore[no-any-return]
        defined = [each for each, value in self._members.items() if callable(value) and not each.startswith("_")]
        found = f"it defines {', '.join(defined[:_LISTED_NAMES])}" if defined else "it defines no function"
        message = f"The script does not define a function named {name}; {found}"
        raise _Failure("no_handler", errors.Described("NoHandler", message))

    def _call(self, handler: Callable[..., Any], payload: object, offered: object) -> object:
        try:
            _setrecursionlimit(self._recursion)
            value = handler(payload, offered)
            return _result_of(value) if hasattr(type(value), "__await__") else value
        except _Failure:
            raise
        except BaseException as error:  # the script's own, of any class
            raise self._failure("exception", error) from None
        finally:
            _settrace(None)  # first, since it would hear of the call
            _quiet()

    def _failure(self, kind: str, error: BaseException) -> _Failure:
        told = self._describe(error)
        if isinstance(error, SystemExit):
            told.message = f"The script called sys.exit({errors.exit_code(error)}) before its handler returned"
            kind = "exit"
        return _Failure(kind, told)

    def _describe(self, error: BaseException) -> errors.Described:
        return errors.describe(error, self._script.files)

    def _tell_of_threads(self, threading: ModuleType) -> None:
        """An error that ends a thread is told in the log, and ends nothing else, as in Python everywhere."""

        def excepthook(failed: Any) -> None:
            if failed.exc_type is not SystemExit and failed.exc_value is not None:
                name = "a thread" if failed.thread is None else failed.thread.name
                logs.error(f"Exception in {name}:\n{self._describe(failed.exc_value).stack}")

        threading.excepthook = excepthook  # type: ignore[attr-defined]

    def _rehearse(self) -> None:
        """Do what every job needs a few times, while nobody waits for it: the first one then takes half the time."""
        source = b"def handler(payload, context):\n    print(payload, context.run_id)\n    return {'m': payload}\n"
        payload = b'"rehearsal"'
        limits = {"result_bytes": 1000, "log_bytes": 1000, "artifact_bytes": 0, "artifacts": 0}
        job = {
            "main": "main.py", "entry_point": "handler", "context": {}, "secrets": {}, "env": {}, "timeout_ms": 1000,
            "limits": limits, "payload": len(payload), "files": [["main.py", len(source)]],
        }  # fmt: skip
        channel.mute(True)
        for _ in range(_REHEARSALS):
            self._execute(job, payload + source)
            self._script.forget()
        channel.mute(False)


def _is_coroutine(handler: Any) -> bool:
    """Whether what is called in the end is an `async def`, below any decorators, methods, partials and objects."""
    for _ in range(_WRAPPERS):
        code = getattr(handler, "__code__", None)
        if code is not None and code.co_flags & _CO_COROUTINE:
            return True
        inner = next((each for name in ("__wrapped__", "func") if callable(each := getattr(handler, name, None))), None)
        if inner is None and code is None and not isinstance(handler, type):
            inner = getattr(type(handler), "__call__")  # noqa: B004,B009  # an object's method, not whether it has one
        if inner is None or inner is handler:
            return False
        handler = inner
    return False


def _result_of(awaitable: Any) -> object:
    coroutines = _coroutines()
    try:
        return coroutines.run(awaitable)
    except coroutines.Stuck as stuck:
        raise _Failure("no_result", errors.Described("NoResult", f"The handler never returned: {stuck}")) from None


def _coroutines() -> Any:
    """The module, with the loop prepared."""
    # asyncio takes longer to load than all else together. It comes first, since `_prepare_loop` hears of it.
    import asyncio  # noqa: F401,PLC0415

    from . import coroutines  # noqa: PLC0415

    return coroutines


def _prepare_loop(_asyncio: ModuleType) -> None:
    _coroutines().prepare()


def _quiet() -> None:
    """Undo what would follow the script's code into this one."""
    _setprofile(None)
    _setrecursionlimit(_RECURSION)


def _fields(kind: str, told: errors.Described) -> dict[str, Any]:
    return {"kind": kind, "name": told.name, "message": told.message, "stack": told.stack}
