"""What a script says becomes log records: print() as INFO, standard error as STDERR, `logging` with its levels."""

from __future__ import annotations

import codecs
import io
import sys
import time
from _thread import get_ident

from . import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Handler, LogRecord, StreamHandler
    from types import ModuleType
    from typing import Any

    from typing_extensions import Buffer

_RECORD_BYTES = 33  # as in sandbox/output.py, which also counts line breaks and has the last word
_PARTIAL_CHARS = 256 * 1024
# The letters are sandbox/protocol.py's.
_DEBUG, _INFO, _WARN, _ERROR, _STDERR = b"D", b"I", b"W", b"E", b"R"
_now = time.time


class _Budget:
    """What the current run may still write. Between runs lines belong to nobody and are dropped."""

    __slots__ = ("dropped", "is_open", "left")

    def __init__(self) -> None:
        self.is_open = False
        self.left = 0
        self.dropped = 0

    def drops(self, text: str) -> bool:
        """Whether `text` is lost, which is then counted."""
        if self.left > 0 and self.is_open:
            return False
        if self.is_open:
            self.dropped += len(text)
        return True


_budget = _Budget()


def line(level: bytes, text: str) -> None:
    """Write one line of the current run, which may hold line breaks."""
    if _budget.drops(text):
        return
    data = channel.utf8(text)
    _budget.left -= len(data) + _RECORD_BYTES
    channel.send_log(level, _now() * 1000, data)


def error(text: str) -> None:
    line(_ERROR, text)


def _pieces(level: bytes, text: str) -> str:
    """Write the front of a line that goes on; returns the rest."""
    if _budget.drops(text):
        return ""
    data = channel.utf8(text)
    sent = channel.send_pieces(level, _now() * 1000, data)
    _budget.left -= sent
    return data[sent:].decode()


class _Partial:
    """The begun line of one thread, so that lines of several threads are not mixed."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.size = 0


class Stream(io.TextIOBase):
    """A text stream whose lines are log records of one level."""

    def __init__(self, level: bytes, descriptor: int, name: str) -> None:
        self._level = level
        self._descriptor = descriptor
        self._partials: dict[int, _Partial] = {}
        self.name = name
        self.mode = "w"
        self.buffer = _Bytes(self)

    encoding = "utf-8"
    errors = "replace"
    line_buffering = True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        me = get_ident()
        partial = self._partials.get(me)
        if partial is None:
            partial = self._partials[me] = _Partial()
        *lines, rest = text.split("\n")
        if lines:
            lines[0] = "".join((*partial.parts, lines[0]))
            partial.parts, partial.size = [], 0
            for each in lines:
                line(self._level, each)
        if rest:
            partial.parts.append(rest)
            partial.size += len(rest)
            # A writer that never breaks its line must not fill the memory.
            if partial.size >= _PARTIAL_CHARS:
                rest = _pieces(self._level, "".join(partial.parts))
                partial.parts, partial.size = [rest], len(rest)
        return len(text)

    def flush_partials(self) -> None:
        partials, self._partials = self._partials, {}
        for partial in partials.values():
            if partial.size:
                line(self._level, "".join(partial.parts))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Nothing: whoever comes next wants to print too."""

    def reconfigure(self, **_options: Any) -> None:
        """Nothing: how lines are encoded is the platform's."""


class _Bytes(io.BufferedIOBase):
    """What `sys.stdout.buffer` is to a script."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        self._stream.write(self._decoder.decode(bytes(view)))
        return len(view)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """Nothing, as for the stream."""


_stdout, _stderr = Stream(_INFO, 1, "<stdout>"), Stream(_STDERR, 2, "<stderr>")


def open_log(limit_bytes: int) -> None:
    """Begin the log of a run, and undo what an earlier one did to the standard streams."""
    _budget.left, _budget.dropped, _budget.is_open = limit_bytes, 0, True
    sys.stdout = sys.__stdout__ = _stdout  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = _stderr  # type: ignore[misc,assignment]


def close_log() -> int:
    """End the current run's log; returns how many bytes were not written because the limit was reached."""
    _stdout.flush_partials()
    _stderr.flush_partials()
    _budget.is_open = False
    return _budget.dropped


def attach(logging: ModuleType) -> None:
    """Let the records of `logging` become log records, from INFO on until the script wants it otherwise."""

    def tell(handler: Handler, record: LogRecord) -> None:
        try:
            line(_level(record.levelno), handler.format(record))
        except Exception:  # as every handler of the standard library does
            handler.handleError(record)

    ours = logging.Handler()
    ours.emit = tell.__get__(ours)
    logging.root.addHandler(ours)
    logging.root.setLevel(logging.INFO)
    # At INFO it tells every request with its whole address, and what secrets are in that.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    write = logging.StreamHandler.emit

    def emit(handler: StreamHandler[Any], record: LogRecord) -> None:
        # A script's own handlers write to our streams: there too a record keeps its level, and its lines together.
        if type(handler.stream) is Stream and handler.terminator == "\n":
            tell(handler, record)
        else:
            write(handler, record)

    configure = logging.basicConfig

    def basic_config(**options: Any) -> None:
        is_untouched = logging.root.handlers == [ours] and ours.formatter is None
        if options and (is_untouched or options.get("force")):
            # Without this it would see our handler and do nothing.
            options["force"] = True
            if not options.keys() & {"filename", "stream", "handlers"}:
                ours.setFormatter(None)
                options["handlers"] = [ours]
        configure(**options)

    logging.StreamHandler.emit = emit
    logging.basicConfig = basic_config  # type: ignore[attr-defined]


def _level(number: int) -> bytes:
    if number >= 40:
        return _ERROR
    if number >= 30:
        return _WARN
    return _INFO if number >= 20 else _DEBUG
