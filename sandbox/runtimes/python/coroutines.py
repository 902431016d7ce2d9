"""Runs handlers that are coroutines. One event loop serves all runs of a jail, so that clients which a script keeps
in its modules stay usable."""

from __future__ import annotations

import asyncio
import selectors
from _thread import _count as count_threads
from concurrent.futures import ThreadPoolExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor
    from typing import Any, ClassVar

_TURNS = 3


class Stuck(Exception):
    """Nothing is left that could make the handler go on."""


Stuck.__module__ = "builtins"  # what tracebacks leave out


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # No timer is set, no callback is ready, only the loop itself could write to its own pipe, and nobody else is
        # there to tell it so.
        if timeout is None and len(self.get_map()) <= 1 and count_threads() == 0:
            raise Stuck("nothing was left that could make it go on")
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that can tell what is left in it, and can be left without threads."""

    of_jail: ClassVar[Loop | None] = None
    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__(_Selector())
        self._pool: ThreadPoolExecutor | None = None
        self._pool_work: set[asyncio.Future[Any]] = set()
        """What somebody waits for."""
        self._in_threads: set[object] = set()
        """What runs, be it that nobody waits for it any more."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
        in_threads, work = self._in_threads, object()

        def run() -> Any:
            in_threads.add(work)
            try:
                return func(*args)
            finally:
                in_threads.discard(work)

        future = super().run_in_executor(self._pool, run)
        self._pool_work.add(future)
        future.add_done_callback(self._pool_work.discard)
        return future

    def _end_pool(self) -> None:
        """End the threads of the pool if they have nothing to do; else they are left behind, and seen."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=not self._pool_work and not self._in_threads)
            self._pool_work.clear()

    def left_behind(self) -> list[str]:
        """What would go on in a later run, once what is about to end has had a turn to do so."""
        self._end_pool()
        for _ in range(_TURNS):
            if not self._unfinished() or self.is_running():  # by a thread of the script's
                break
            self.run_until_complete(asyncio.sleep(0))
        return self._unfinished()

    def _unfinished(self) -> list[str]:
        left = []
        if self._ready or any(not task.done() for task in asyncio.all_tasks(self)):
            left.append("Task")
        if any(not timer.cancelled() for timer in self._scheduled):
            left.append("Timer")
        return left


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def run(awaitable: Awaitable[Any]) -> Any:
    """The result of `awaitable`. Raises Stuck, and whatever it raises."""
    return prepare().run_until_complete(_result_of(awaitable))


def prepare() -> Loop:
    """The loop of this jail, made if need be. A plain function gets it from asyncio.get_event_loop()."""
    if Loop.of_jail is None or Loop.of_jail.is_closed():
        Loop.of_jail = Loop()
        asyncio.set_event_loop(Loop.of_jail)
    return Loop.of_jail


def left_behind() -> list[str]:
    loop = Loop.of_jail
    return [] if loop is None or loop.is_closed() else loop.left_behind()
