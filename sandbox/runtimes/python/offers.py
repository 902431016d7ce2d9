"""The names that a script's modules find without an import: context, sdk and events.

What is behind them is loaded when one of them is first used, so a script that uses none pays nothing. They are among
the built-in names and not in each module's own: there a `from helpers import *` would carry them over a script's
variables, and `from package import events` would find them instead of the script's own module.
"""

from __future__ import annotations

import builtins

from .underway import ReadOnly, Run, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .context import Calls

NAMES = ("context", "sdk", "events")


def begin(told: dict[str, Any] | None, calls: Calls) -> Run:
    State.run = run = Run({} if told is None else told, calls)
    return run


def end() -> None:
    State.run = None


class Name(ReadOnly):
    """Stands for what is loaded later."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__wrapped__":  # asked by whoever looks through decorators
            raise AttributeError(attribute)
        return getattr(_behind(self._name), attribute)

    def __dir__(self) -> list[str]:
        return dir(_behind(self._name))

    def __repr__(self) -> str:
        return repr(_behind(self._name))


def _behind(name: str) -> Any:
    from . import sdk  # noqa: PLC0415  # costs more than most runs

    return getattr(sdk, name)


def install() -> None:
    for name in NAMES:
        setattr(builtins, name, Name(name))
