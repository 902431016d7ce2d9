"""One job's talk with its jail: hands the job over, passes on what the jail says, watches the clock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sandbox import output, protocol, verdict
from sandbox.answers import Answers
from sandbox.jail import Pipes
from sandbox.job import CallRefused, Job, Kind, Pending, ScriptError, Sink

_TICK_S = 0.1
"""How often a set `cancel` is looked for."""
_START_S = 5.0
"""A reused jail has its script loaded: one that does not enter the handler for so long never will."""
_GATHER_S = 0.03
"""What a run says is looked at this seldom, unless it says so much that its pipe would fill: to be woken for each line
costs more than to read it."""
_FLUSH_S = 0.07
"""How long a log line that was read may wait for others."""
_FLUSH_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
"""Read at one go, and passed on: so much stays in a processor's cache from the pipe to the sink."""
_CONTROL_BYTES = 256 * 1024
_STDERR_TAIL_BYTES = 16 * 1024
_THROTTLE_S = 0.05
"""A run that floods a full log is read this seldom: it costs nearly nothing, and the script feels it."""
_GRACE_S = 2.0
_SHARE = 0.04
_KEPT_S_PER_BYTE = 1e-7
"""What one run may cost of the worker's processor: a grace, a share of its time, and what it takes to keep its log,
secrets masked and all. A run that costs more is listened to less often: its pipes fill, and it waits. What the sink
does for calls and artifacts is not counted: it has bounds of its own."""
_UNANSWERED_BYTES = 32 * 1024 * 1024
"""Of answers that a jail has not read. It goes beyond that only with calls that are answered at once."""
_PASSED_ON_BYTES = 8 * 1024 * 1024
"""Answers that come later are passed on while less than this waits to be read: the largest on top is half of the above,
and leaves room for further calls of a script that reads as fast as it can."""
_ERROR_KINDS = frozenset(
    {
        Kind.EXCEPTION,
        Kind.EXIT,
        Kind.NO_RESULT,
        Kind.BAD_RESULT,
        Kind.RESULT_TOO_LARGE,
        Kind.NO_HANDLER,
        Kind.LOAD_ERROR,
    }
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the talk ended. No kind: the jail fell silent, and its exit code has to tell."""

    kind: Kind | None = None
    result: bytes | None = None
    error: ScriptError | None = None
    clean: bool = False
    """The jail may serve the next job of its key."""


class Conversation:
    """Used once, by one thread. The descriptors are the caller's to close."""

    def __init__(self, job: Job, sink: Sink, cancel: threading.Event, pipes: Pipes, *, has_script: bool) -> None:
        """`has_script`: the jail has run this key before and has its files."""
        self._job = job
        self._sink = sink
        self._cancel = cancel
        self._pipes = pipes
        self._has_script = has_script
        limits = job.limits
        self._frames = protocol.FrameReader(
            {
                protocol.STARTED: 0,
                protocol.RESULT: limits.result_bytes,
                protocol.ERROR: 0,
                protocol.ARTIFACT: limits.artifact_bytes,
                protocol.CALL: protocol.CALL_BYTES,
            }
        )
        self._records = protocol.LogReader()
        self._raw = {pipes.stdout: output.RawLines(), pipes.stderr: output.RawLines()}
        self._raw_level = {pipes.stdout: "STDOUT", pipes.stderr: "STDERR"}
        self.log = output.LogFeed(limits.log_bytes, int(time.time() * 1000))
        self._to_send: deque[memoryview] = deque()
        self._unsent = 0
        self._poll = select.poll()
        self._urgent = select.poll()
        """Without what a run says."""
        self._gathers_until = 0.0
        self._pipe_bytes: dict[int, int] = {}
        self._polls_job = False
        self._answers = Answers()
        self._throttled: set[int] = set()
        self._served_s = 0.0
        self._sent_job = False
        self._calls = 0
        self._artifacts = 0
        self._artifact_bytes = 0
        self._last_flush = 0.0
        self._ending: Ending | None = None
        self.reached_handler = False
        self.sdk_calls = 0
        self.stderr_tail = b""

    def run(self) -> Ending:
        """Carry the job until the jail answers or falls silent, the time is up, or it is cancelled."""
        with contextlib.closing(self._answers):
            return self._carry()

    def _carry(self) -> Ending:
        if self._has_script and not self._discard_stale():
            return Ending(Kind.CRASH, error=_broken("it went on writing after its last job"))
        for fd in (self._pipes.control, *self._log_fds()):
            self._poll.register(fd, select.POLLIN)
        self._urgent.register(self._pipes.control, select.POLLIN)
        self._last_flush = time.monotonic()
        began, began_cpu = self._last_flush, time.thread_time()
        deadline = began + self._job.limits.timeout_ms / 1000
        self._send(self._job_frame())
        self._sent_job = True
        while self._ending is None:
            now = time.monotonic()
            if (late := self._late(began, deadline, now)) is not None:
                # What it said while we did not listen, be it that we were stopped, still counts.
                self._serve(self._poll.poll(0))
                if self._ending is not None or self._late(began, deadline, now) is not None:
                    return self._ending or late
            if self._cancel.is_set():
                return Ending(Kind.CANCELLED, error=verdict.cancelled())
            if time.thread_time() - began_cpu - self._served_s > self._allowance(now - began):
                self._cancel.wait(min(_THROTTLE_S, deadline - now))
            else:
                self._serve(self._wait(now, deadline))
            self._flush_when_due()
        return self._ending

    def _wait(self, now: float, deadline: float) -> list[tuple[int, int]]:
        """What there is to read or write, as soon as there is something; what the run says only if that is due."""
        if now < self._gathers_until:
            poll, until = self._urgent, self._gathers_until
        else:
            poll, until = self._poll, now + (_THROTTLE_S if self._throttled else _TICK_S)
            if self.log.has_lines:
                until = min(until, self._last_flush + _FLUSH_S)
        if until < deadline:
            return poll.poll(1000 * max(0.0, until - now))  # rounded up
        # A poll knows whole milliseconds alone, and a run ends on time.
        whole = int(1000 * (deadline - now))
        if whole == 0:
            self._cancel.wait(deadline - now)
        return poll.poll(whole)

    def _late(self, began: float, deadline: float, now: float) -> Ending | None:
        """How the talk ends if its time is up, or that of a reused jail to enter the handler."""
        if now >= deadline:
            return Ending(Kind.TIMEOUT, error=verdict.timed_out(self._job.limits))
        if self._has_script and not self.reached_handler and now >= began + _START_S:
            return Ending(Kind.KILLED, error=verdict.not_started(_START_S))
        return None

    def entered_unheard(self) -> bool:
        """Whether a jail that has ended since may have entered the handler of this job without our hearing of it."""
        while self._sent_job and not self.reached_handler and (chunk := _read(self._pipes.control)):
            try:
                self.reached_handler = any(frame.type != protocol.ERROR for frame in self._frames.feed(chunk))
            except protocol.ProtocolError:
                self.reached_handler = True  # nobody knows
        return self.reached_handler

    def _allowance(self, elapsed: float) -> float:
        """Seconds of the worker's processor that the run may have cost by now."""
        return _GRACE_S + _SHARE * elapsed + _KEPT_S_PER_BYTE * self.log.kept_bytes

    def drain(self) -> None:
        """Read what the jail wrote before its end, and pass on every line that is left.

        That is what the pipes hold now: a jail that is alive may go on writing for ever.
        """
        for fd in self._log_fds():
            left = _readable_bytes(fd)
            while left > 0 and (chunk := _read(fd, min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                self._on_log_chunk(fd, chunk)
        for fd, lines in self._raw.items():
            self.log.add_raw(self._raw_level[fd], lines.end())
        self.log.end()
        self._flush()

    def _log_fds(self) -> tuple[int, int, int]:
        return (self._pipes.log, self._pipes.stdout, self._pipes.stderr)

    def _discard_stale(self) -> bool:
        """Drop what was written between two jobs; False if that does not come to an end."""
        for fd in (self._pipes.control, *self._log_fds()):
            left = 2 * 1024 * 1024
            while chunk := _read(fd):
                left -= len(chunk)
                if left < 0:
                    return False
        return True

    # To the jail

    def _job_frame(self) -> bytes:
        job, limits = self._job, self._job.limits
        files = None if self._has_script else [(path, len(data)) for path, data in job.files.items()]
        header = {
            "main": job.main,
            "entry_point": job.entry_point,
            "context": dict(job.context),
            "secrets": dict(job.secrets),
            "env": dict(job.env),
            "timeout_ms": limits.timeout_ms,
            "limits": {
                "result_bytes": limits.result_bytes,
                "log_bytes": limits.log_bytes,
                "artifact_bytes": limits.artifact_bytes,
                "artifacts": limits.artifacts,
            },
            "payload": len(job.payload),
            "once": job.reuse_key is None,
            "files": files,
        }
        data = job.payload if self._has_script else b"".join((job.payload, *job.files.values()))
        return protocol.encode_frame(protocol.JOB, header, data)

    def _send(self, frame: bytes) -> None:
        self._to_send.append(memoryview(frame))
        self._unsent += len(frame)
        self._write()

    def _write(self) -> None:
        try:
            while self._to_send:
                rest = self._to_send[0]
                sent = os.write(self._pipes.job, rest)
                self._unsent -= sent
                if sent == len(rest):
                    self._to_send.popleft()
                else:
                    self._to_send[0] = rest[sent:]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            # The jail is gone or closed its ear; the control channel or the clock will tell.
            self._to_send.clear()
        if bool(self._to_send) != self._polls_job:
            self._polls_job = bool(self._to_send)
            for poll in (self._poll, self._urgent):
                if self._polls_job:
                    poll.register(self._pipes.job, select.POLLOUT)
                else:
                    poll.unregister(self._pipes.job)

    # From the jail

    def _serve(self, events: list[tuple[int, int]]) -> None:
        for fd in self._throttled:
            size = len(_read(fd, 1024 * 1024))
            if self.log.is_full:
                self.log.drop(size)
        silent = False
        for fd, _ in events:
            if fd == self._pipes.job:
                self._write()
                self._pass_answers_on()
                continue
            if fd == self._answers.fd:
                self._answers.still()
                self._pass_answers_on()
                continue
            if fd == self._pipes.control:
                silent = not self._on_control_chunk(_read(fd, _CONTROL_BYTES))
            elif not self._read_log(fd):
                self._poll.unregister(fd)
        if silent and self._ending is None:
            self._ending = Ending()
        if self.log.is_full:
            self._throttle(*self._log_fds())
        elif self._records.damage is not None:
            self._throttle(self._pipes.log)

    def _throttle(self, *fds: int) -> None:
        """What comes from these is of no use any more, but who writes must not wait for ever."""
        for fd in set(fds) - self._throttled:
            self._throttled.add(fd)
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def _read_log(self, fd: int) -> bool:
        """Read what a run has said, at most as much as its pipe holds. False at the end of file."""
        room = left = self._room(fd)
        while left > 0 and (chunk := _read(fd)):
            left -= len(chunk)
            self._on_log_chunk(fd, chunk)
            if self.log.pending_bytes >= _FLUSH_BYTES:
                self._flush()
            if len(chunk) < _CHUNK_BYTES:
                break
        if left > room // 4:
            self._gathers_until = time.monotonic() + _GATHER_S
        return left < room

    def _room(self, fd: int) -> int:
        if fd not in self._pipe_bytes:
            self._pipe_bytes[fd] = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        return self._pipe_bytes[fd]

    def _on_log_chunk(self, fd: int, chunk: bytes) -> None:
        if fd == self._pipes.stderr:
            self.stderr_tail = (self.stderr_tail + chunk)[-_STDERR_TAIL_BYTES:]
        if self.log.is_full:
            self.log.drop(len(chunk))
        elif fd != self._pipes.log:
            self.log.add_raw(self._raw_level[fd], self._raw[fd].feed(chunk))
        else:
            was_whole = self._records.damage is None
            self.log.add_records(self._records.feed(chunk))
            if was_whole and self._records.damage is not None:
                damage = self._records.damage
                self.log.note(f"The log ends here, since the script damaged its log channel: {damage}")

    def _on_control_chunk(self, chunk: bytes) -> bool:
        """False at the end of file."""
        try:
            for frame in self._frames.feed(chunk):
                self._on_frame(frame)
                if self._ending is not None:
                    break
        except protocol.TooLarge as error:
            if error.frame_type == protocol.RESULT:
                message = f"The result is {error.size} bytes; at most {error.bound} are allowed"
                self._ending = Ending(Kind.RESULT_TOO_LARGE, error=ScriptError("ResultTooLarge", message))
            else:
                self._ending = Ending(Kind.CRASH, error=_broken(str(error)))
        except protocol.ProtocolError as error:
            self._ending = Ending(Kind.CRASH, error=_broken(str(error)))
        return bool(chunk)

    def _on_frame(self, frame: protocol.Frame) -> None:
        if frame.type == protocol.STARTED:
            if self.reached_handler:
                raise protocol.ProtocolError("it entered its handler twice")
            self.reached_handler = True
            self._sink.on_start()
        elif frame.type == protocol.RESULT:
            self._on_result(frame)
        elif frame.type == protocol.ERROR:
            self._on_error(frame)
        else:
            self._on_request(frame)

    def _on_result(self, frame: protocol.Frame) -> None:
        self.reached_handler = True
        self._count_dropped(frame)
        try:
            result = output.checked_result(frame.data)
        except protocol.ProtocolError as error:
            message = f"The handler's result is not JSON that can be kept: {error}"
            self._ending = Ending(Kind.BAD_RESULT, error=ScriptError("BadResult", message))
            return
        # The rest of a frame would be taken for the beginning of the next job.
        clean = frame.header.get("left") == [] and not self._to_send
        self._ending = Ending(Kind.SUCCEEDED, result=result, clean=clean)

    def _on_error(self, frame: protocol.Frame) -> None:
        self._count_dropped(frame)
        kind = frame.header.get("kind")
        if not isinstance(kind, str) or kind not in _ERROR_KINDS:
            self._ending = Ending(Kind.CRASH, error=_broken("it reported a failure of no known kind"))
            return

        def text(key: str) -> str:
            value = frame.header.get(key)
            return output.clean(value, protocol.ERROR_TEXT_CHARS) if isinstance(value, str) else ""

        error = ScriptError(text("name"), text("message"), text("stack"))
        self._ending = Ending(Kind(kind), error=error)

    def _count_dropped(self, frame: protocol.Frame) -> None:
        dropped = frame.header.get("log_dropped")
        if isinstance(dropped, int) and 0 < dropped < 2**53:
            self.log.drop(dropped)

    def _on_request(self, frame: protocol.Frame) -> None:
        """An artifact or an SDK call: each is answered, so that the script's promise settles."""
        if not self.reached_handler:
            raise protocol.ProtocolError("it made a call before its handler was entered")
        self._calls += 1
        if self._calls > protocol.CALLS or self._unsent > _UNANSWERED_BYTES:
            raise protocol.ProtocolError("it made more calls than a run may make, or did not read the answers")
        number = frame.header.get("id")
        if not isinstance(number, int) or abs(number) > 2**53:
            raise protocol.ProtocolError("a call has no number")
        try:
            answer = self._asked(frame, number)
            if isinstance(answer, Pending):
                self._await(number, answer)
                return
            data = _encoded(answer)
        except CallRefused as refused:
            self._refuse(number, refused)
        else:
            self._reply(number, data)

    def _await(self, number: int, pending: Pending) -> None:
        """Answer a call when its answer comes."""
        is_first = self._answers.fd < 0
        self._answers.add(number, pending)
        if is_first:
            for poll in (self._poll, self._urgent):
                poll.register(self._answers.fd, select.POLLIN)

    def _pass_answers_on(self) -> None:
        """Answers that came in go to the jail, but not faster than it reads them."""
        # Once the result is there the jail may get its next job, and none of these may stand before it.
        while self._ending is None and self._unsent <= _PASSED_ON_BYTES and (come := self._answers.take()) is not None:
            number, pending = come
            try:
                data = _encoded(pending.answer())
            except CallRefused as refused:
                self._refuse(number, refused)
            else:
                self._reply(number, data)

    def _reply(self, number: int, data: bytes) -> None:
        self._send(protocol.encode_frame(protocol.REPLY, {"id": number, "ok": True}, data))

    def _refuse(self, number: int, refused: CallRefused) -> None:
        header: dict[str, object] = {"id": number, "ok": False}
        if refused.code:
            header["code"] = refused.code
        if refused.retry_after_ms is not None:
            header["retry_after_ms"] = refused.retry_after_ms
        self._send(protocol.encode_frame(protocol.REPLY, header, json.dumps(str(refused)).encode()))

    def _asked(self, frame: protocol.Frame, number: int) -> object:
        if frame.type != protocol.CALL:
            with self._serving():
                self._artifact(frame)
            return None
        self._answers.check(number)
        method, params = self._call(frame)
        with self._serving():
            return self._sink.on_call(method, params)

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """The sink is at work."""
        began = time.thread_time()
        try:
            yield
        finally:
            self._served_s += time.thread_time() - began

    def _call(self, frame: protocol.Frame) -> tuple[str, dict[str, Any]]:
        """Method and parameters."""
        self.sdk_calls += 1
        method = frame.header.get("method")
        try:
            params = protocol.parse_json(frame.data)
        except protocol.TooDeep as error:
            raise CallRefused(f"the parameters of a call can't be read: {error}") from None
        if not isinstance(method, str) or len(method) > 100 or not isinstance(params, dict):
            raise CallRefused("a call needs the name of a method and an object of parameters")
        return output.clean(method), params

    def _artifact(self, frame: protocol.Frame) -> None:
        name, content_type = frame.header.get("name"), frame.header.get("content_type")
        if not output.is_artifact_name(name) or not output.is_content_type(content_type):
            raise CallRefused("the artifact's name or content type is not allowed")
        self._artifacts += 1
        self._artifact_bytes += len(frame.data)
        limits = self._job.limits
        if self._artifacts > limits.artifacts or self._artifact_bytes > limits.artifact_bytes:
            raise CallRefused(f"a run may write {limits.artifacts} artifacts of {limits.artifact_bytes} bytes in all")
        self._sink.on_artifact(name, content_type, frame.data)

    # To the sink

    def _flush_when_due(self) -> None:
        if self.log.pending_bytes >= _FLUSH_BYTES or time.monotonic() - self._last_flush >= _FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        if self.log.has_lines:
            self._sink.on_log(self.log.take())
        self._last_flush = time.monotonic()


def _read(fd: int, size: int = _CHUNK_BYTES) -> bytes:
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return b""


def _readable_bytes(fd: int) -> int:
    (size,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(size)


def _encoded(answer: object) -> bytes:
    """The answer to a call as JSON; raises CallRefused for one that is too large or has a number that JSON has not."""
    try:
        data = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise CallRefused(f"the answer is not JSON: {error}") from None
    if len(data) > protocol.REPLY_BYTES:
        raise CallRefused(f"the answer is {len(data)} bytes; at most {protocol.REPLY_BYTES} are allowed")
    return data


def _broken(what: str) -> ScriptError:
    return ScriptError("Crash", f"The script's process broke its channel to the platform: {what}")
