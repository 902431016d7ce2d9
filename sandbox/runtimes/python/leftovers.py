"""What a handler left behind that would go on, or pile up, in a later run: then the jail is not used again."""

from __future__ import annotations

import gc
import os
import signal
import sys
from _thread import _count as count_threads

_MOST_TUNNELS = 32
"""Connections that clients keep are harmless, since they end with the run; but their descriptors must not pile up."""

_package = __name__.rpartition(".")[0]
_known: set[int] = set()
_listdir, _fstat, _collect = os.listdir, os.fstat, gc.collect
_getitimer, _real = signal.getitimer, signal.ITIMER_REAL


def remember() -> None:
    """What is open now may stay open: it belongs to the bootstrap, or to the script's modules."""
    _known.clear()
    _known.update(_opened() or ())


def find() -> list[str]:
    """Kinds of what was left behind; empty if nothing was."""
    left: list[str] = []
    coroutines = sys.modules.get(f"{_package}.coroutines")
    if coroutines is not None:
        left += coroutines.left_behind()
    if count_threads():
        left.append("Thread")
    if _getitimer(_real)[0]:
        left.append("Alarm")
    # What nobody refers to any more may still wait for the collector of garbage.
    if _piled_up() and (_collect(), _piled_up())[1]:
        left.append("Descriptor")
    return left


def _opened() -> list[int] | None:
    """Descriptors that were opened since `remember`; None if there is not even one left to see them."""
    try:
        listed = _listdir("/proc/self/fd")
    except OSError:
        return None
    return [fd for fd in map(int, listed) if fd not in _known and _is_open(fd)]


def _is_open(fd: int) -> bool:
    # One of those listed was the listing's own.
    try:
        _fstat(fd)
    except OSError:
        return False
    return True


def _piled_up() -> bool:
    opened = _opened()
    if not opened:
        return opened is None
    tunnel = sys.modules.get(f"{_package}.tunnel")
    if tunnel is None:
        return True
    tunnels: int = sum(map(tunnel.hang_up, opened))
    return tunnels < len(opened) or tunnels > _MOST_TUNNELS
