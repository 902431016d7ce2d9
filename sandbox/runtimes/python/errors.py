"""Turns whatever a script raised into a name, a message and a traceback that holds the script's own lines only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from traceback import TracebackException

# Far more than is kept: the worker masks secrets and cuts after that, and knows by these sizes what is cut here.
# sandbox/protocol.py allows a little more.
_TEXT_CHARS = 272 * 1024
_STACK_CHARS = 288 * 1024
_STACK_LINES = 50
_CHAIN = 12
"""Exceptions that are described together with the one that was raised: causes, contexts and members of groups."""


class Described:
    """An exception as it is told to people."""

    __slots__ = ("message", "name", "stack")

    def __init__(self, name: str, message: str, stack: str = "") -> None:
        self.name = name
        self.message = message
        self.stack = stack


def _cut(text: str, length: int = _TEXT_CHARS) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more characters)"


def _name(error: BaseException) -> str:
    try:
        name = type(error).__name__
        return name if type(name) is str else "Exception"
    except BaseException:  # a metaclass of the script's
        return "Exception"


def _message(error: BaseException) -> str:
    try:
        return "".join((str(error), ""))
    except BaseException:  # a method of the script's, which may raise what it wants
        return ""


def describe(error: BaseException, files: Container[str]) -> Described:
    """Never raises, whatever `error` is. `files` are the names of the script's files."""
    name, message = _cut(_name(error)), _cut(_message(error))
    try:
        stack = _traceback(error, files)
    except BaseException:  # from a method of the script's
        stack = f"{name}: {message}" if message else name
    return Described(name, message, _cut(stack, _STACK_CHARS))


def _traceback(error: BaseException, files: Container[str]) -> str:
    from traceback import TracebackException  # noqa: PLC0415  # costs more than most runs

    told = TracebackException(type(error), error, error.__traceback__, lookup_lines=False, compact=True)
    left = [_CHAIN]
    _keep_own(told, files, left)
    return "".join(told.format()).rstrip("\n")


def _keep_own(told: TracebackException, files: Container[str], left: list[int]) -> None:
    """Drop the lines of everybody else, and whatever is further away than anyone reads."""
    own = [frame for frame in told.stack if frame.filename in files]
    del own[:-_STACK_LINES]
    told.stack[:] = own
    for name in ("__cause__", "__context__"):
        below = getattr(told, name)
        if below is None:
            continue
        left[0] -= 1
        if left[0] < 0:
            setattr(told, name, None)
        else:
            _keep_own(below, files, left)
    if told.exceptions:
        told.exceptions = told.exceptions[: max(0, left[0])]
        left[0] -= len(told.exceptions)
        for each in told.exceptions:
            _keep_own(each, files, left)


def exit_code(error: SystemExit) -> str:
    """What sys.exit() was given, as a script would write it."""
    code = error.code
    if code is None:
        return ""
    return _cut(repr(code)) if type(code) in (int, str, bool) else "..."
