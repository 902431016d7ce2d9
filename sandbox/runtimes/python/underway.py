"""The run under way, and how the names that scripts find speak for it."""

from __future__ import annotations

from .context import CallRefused, call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self

    from .context import Calls

    Members = dict[str, Any]
else:
    Members = dict


class Run:
    """The run under way, as far as these names tell of it."""

    __slots__ = ("bucket", "calls", "is_async", "payload", "told", "trigger")

    def __init__(self, told: dict[str, Any], calls: Calls) -> None:
        """`told` is what the platform has the SDK know: a member of the job's context."""
        self.told = told
        self.calls = calls
        self.payload: Any = None
        self.is_async = False
        """The handler is a coroutine: what it calls is awaited."""
        self.trigger: Any = None
        self.bucket: tuple[float, float] | None = None
        """Of `sdk.log`: tokens, and when they were counted."""


class State:
    """What is true in this jail now."""

    run: Run | None = None


def running() -> Run:
    """The run under way; raises CallRefused if there is none."""
    if State.run is None:
        raise CallRefused("This run has ended")
    return State.run


def ask(method: str, params: dict[str, Any], label: str = "") -> Any:
    """The platform's answer, or for a coroutine what it awaits to get that."""
    run = running()
    return call(run.calls, run.is_async, method, params, label or f"sdk.{method}")


class ReadOnly:
    """An object whose attributes stay as they are."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} is read-only: {name!r} can't be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self!r} is read-only: {name!r} can't be deleted")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self


class Record(Members):
    """A dict whose members are attributes as well, and that stays as it is."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self)}") from None

    def _refuse(self, *_arguments: Any, **_named: Any) -> Any:
        raise TypeError("it is read-only")

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        from copy import deepcopy  # noqa: PLC0415  # whoever gets here has loaded it

        return deepcopy(dict(self), memo)
