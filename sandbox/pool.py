"""Which jail serves which job: boots jails ahead, hands them out, keeps used ones for the same key, and
ends them.

States of a jail: booting, warm (never used), busy (one job), parked (used, stopped, kept for its key), dying.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandbox import cgroups, jail, nsjail, protocol
from sandbox.lease import Account, Jail, Request, Waiter
from sandbox.loop import Loop, Timer
from sandbox.proxylink import ProxyLink, Traffic
from sandbox.runtimes import Runtime
from sandbox.slots import NoFreeSlot, Slot, Slots

BOOT_TIMEOUT_S = 20.0
BACKSTOP_S = 10.0
"""The worker ends a job at its deadline; the launcher does so this much later if the worker did not. It
counts from the moment the jail is handed out, so it also covers what the worker does before it sends the
job."""
IDLE_S = 60.0
MAX_RUNS = 1000
PAUSE_AFTER_S = 0.01
"""A used jail is stopped this long after its job: stopping and waking a dozen threads costs as much as a
small job."""
PIDS_AT_BOOT = 64
REFILL_DELAY_S = 0.02
"""Booting costs a fork here and a core there: it waits until the job that emptied the place has been served."""
REFILL_BACKOFF_S = (1.0, 60.0)
GIVE_BACK_AGAIN_S = (1.0, 4.0, 16.0, 60.0)
"""When a slot whose group could not be emptied is tried again; after the last it stays out of use."""
_log = logging.getLogger("millrace.launcher")


class Pool:
    def __init__(
        self,
        loop: Loop,
        slots: Slots,
        roots: Mapping[str, tuple[Runtime, Path]],
        targets: Mapping[tuple[str, int], int],
        proxy: ProxyLink | None,
        memory_budget: int,
    ) -> None:
        """`targets` says how many warm jails to keep per shape, `memory_budget` what parked jails may
        hold."""
        self._loop = loop
        self._slots = slots
        self._roots = roots
        self._targets = dict(targets)
        self._proxy = proxy
        self._memory_budget = memory_budget
        self._binary = nsjail.find_binary()
        self._jails: set[Jail] = set()
        self._warm: dict[tuple[str, int], deque[Jail]] = {}
        self._parked: OrderedDict[Jail, tuple[object, ...]] = OrderedDict()
        self._by_key: dict[tuple[object, ...], list[Jail]] = {}
        self._parked_bytes = 0
        self._waiters: dict[tuple[str, int], deque[Waiter]] = {}
        self._refill_timer: Timer | None = None
        self._boot_failures = 0
        self._closing: Callable[[], None] | None = None

    # Handing out

    def acquire(
        self, request: Request, on_ready: Callable[[Jail, str], None], on_failed: Callable[[str], None]
    ) -> Waiter:
        """Call `on_ready(jail, origin)` now or once a jail has booted, or `on_failed(reason)`.

        Set `abandoned` on what is returned to give up before either was called.
        """
        waiter = Waiter(request, on_ready, on_failed)
        if self._closing is not None:
            on_failed("the launcher is stopping")
        elif (used := self._take_parked(request)) is not None:
            self._hand_out(used, waiter, "reused")
        elif (warm := self._take_warm(request.shape)) is not None:
            self._hand_out(warm, waiter, "warm")
            self._refill_soon()
        else:
            self._waiters.setdefault(request.shape, deque()).append(waiter)
            self._boot_for_waiters(request.shape)
        return waiter

    def _take_warm(self, shape: tuple[str, int]) -> Jail | None:
        line = self._warm.get(shape)
        return line.popleft() if line else None

    def _take_parked(self, request: Request) -> Jail | None:
        key = request.reuse_as
        line = self._by_key.get(key) if key is not None else None
        if not line:
            return None
        used = line[-1]
        self._unpark(used)
        if used.paused and not used.process.resume():
            self._end(used)
            return None
        used.paused = False
        return used

    def _hand_out(self, chosen: Jail, waiter: Waiter, origin: str) -> None:
        request = waiter.request
        group = chosen.slot.group
        try:
            group.limit(nsjail.memory_limit_bytes(request.memory_mb), request.pids, request.cpus)
            group.weigh(cgroups.RUN_WEIGHT)
            group.reset_peak()
            if chosen.cpu_ms is None:
                chosen.cpu_ms = group.read().cpu_ms
        except OSError as error:
            self._end(chosen)
            waiter.on_failed(f"the limits of a jail cannot be set: {error}")
            return
        if self._proxy is not None and not chosen.assigned:
            self._proxy.assign(chosen.slot.name, request.hosts)
            chosen.assigned = True
        chosen.state = "busy"
        chosen.request = request
        chosen.runs += 1
        chosen.cancel_timer()
        chosen.timer = self._loop.later(request.timeout_ms / 1000 + BACKSTOP_S, chosen.process.kill)
        waiter.on_ready(chosen, origin)

    # Taking back

    def finish(self, used: Jail, *, keep: bool, ended: bool, done: Callable[[Account], None]) -> None:
        """The job in `used` is over. `keep`: it went well and its jail may serve the same key again.

        `ended`: the jail is dead or is to be killed; `done` is called after its end, so that the account
        has its exit code and the kill counter. Otherwise `done` is called at once and the jail ends later.
        """
        used.cancel_timer()
        if ended and used.exit_code is None:
            used.on_exit.append(lambda: self._account(used, False, done))
            self._kill(used)
        else:
            self._account(used, keep, done)

    def _account(self, used: Jail, keep: bool, done: Callable[[Account], None]) -> None:
        before = used.cpu_ms or 0.0
        try:
            reading = used.slot.group.read()
            # As long as the runtime lives, nothing was killed: it is the only process.
            oom_kills = 0 if used.exit_code is None else used.slot.group.oom_kills()
        except (OSError, ValueError) as error:
            _log.error("slot %s: what its job used cannot be read and counts as nothing: %s", used.slot.name, error)
            reading, oom_kills, keep = cgroups.Reading(before, 0), 0, False
        used.cpu_ms = reading.cpu_ms
        used.resident_bytes = reading.peak_memory_bytes

        def released(traffic: Traffic) -> None:
            done(
                Account(
                    cpu_ms=reading.cpu_ms - before,
                    peak_memory_bytes=reading.peak_memory_bytes,
                    oom_kills=oom_kills,
                    exit_code=used.exit_code,
                    traffic=traffic,
                )
            )
            self._park_or_end(used, keep)

        # A jail that never connected stays assigned: two messages to another process cost more than a small job.
        if self._proxy is None or (keep and not self._proxy.was_used(used.slot.name)):
            released(Traffic())
        else:
            used.assigned = False
            self._proxy.release(used.slot.name, released)

    def _park_or_end(self, used: Jail, keep: bool) -> None:
        key = used.request.reuse_as if used.request is not None else None
        young = time.monotonic() - used.booted_at < nsjail.MAX_AGE_S
        if not (keep and key and young and used.runs < MAX_RUNS and used.exit_code is None and not self._closing):
            self._end(used)
            return
        used.state = "parked"
        self._parked[used] = key
        self._by_key.setdefault(key, []).append(used)
        self._parked_bytes += used.resident_bytes
        used.timer = self._loop.later(PAUSE_AFTER_S, lambda: self._pause(used))
        while self._parked_bytes > self._memory_budget and self._parked:
            self._end(next(iter(self._parked)))

    def _pause(self, parked: Jail) -> None:
        if parked.process.pause():
            parked.paused = True
            parked.timer = self._loop.later(IDLE_S, lambda: self._end(parked))
        else:
            self._end(parked)

    def abandon(self, used: Jail) -> None:
        """Whoever held `used` is gone: end it, and its connections to the outside."""
        self._end(used)

    def _unpark(self, used: Jail) -> None:
        key = self._parked.pop(used, None)
        if key is None:
            return
        self._parked_bytes -= used.resident_bytes
        line = self._by_key[key]
        line.remove(used)
        if not line:
            del self._by_key[key]

    # Ending

    def _end(self, unwanted: Jail) -> None:
        """From any state; the slot is free again once the processes are gone."""
        unwanted.cancel_timer()
        self._unpark(unwanted)
        if self._proxy is not None and unwanted.assigned:
            unwanted.assigned = False
            self._proxy.release(unwanted.slot.name, lambda traffic: _report_late(unwanted, traffic))
        with contextlib.suppress(KeyError, ValueError):
            self._warm[unwanted.shape].remove(unwanted)
        unwanted.state = "dying"
        if unwanted.exit_code is None:
            self._kill(unwanted)
        else:
            self._forget(unwanted)

    def _kill(self, unwanted: Jail) -> None:
        unwanted.cancel_timer()
        unwanted.process.kill()
        unwanted.timer = self._loop.later(1.0, unwanted.process.kill_hard)

    def _on_exit(self, ended: Jail) -> None:
        self._loop.unwatch(ended.process.pidfd)
        self._loop.unwatch(ended.process.pipes.control)
        ended.cancel_timer()
        ended.exit_code = ended.process.reap()
        waiting, ended.on_exit = ended.on_exit, []
        if ended.state == "booting":
            self._boot_failed(ended)
        elif ended.state == "busy":
            # Its worker has yet to ask for the account; what it wrote is still in the pipes.
            for callback in waiting:
                callback()
        else:
            self._end(ended)

    def _forget(self, ended: Jail) -> None:
        if ended not in self._jails:
            # Stopping ends jails whose workers are still about to give them back.
            return
        self._jails.discard(ended)
        ended.process.close()
        self._give_back(ended.slot)
        if self._closing is not None and not self._jails:
            self._closing()

    def _give_back(self, slot: Slot, attempt: int = 0) -> None:
        """One group that cannot be emptied must not end the others' jails: its slot is set aside and tried again."""
        try:
            self._slots.give_back(slot)
        except (cgroups.CgroupsUnavailable, OSError) as error:
            _log.error("slot %s is set aside (attempt %d): %s", slot.name, attempt + 1, error)
            if attempt < len(GIVE_BACK_AGAIN_S):
                self._loop.later(GIVE_BACK_AGAIN_S[attempt], lambda: self._give_back(slot, attempt + 1))
        else:
            self._serve_waiters()
        self._refill_soon()

    # Booting

    def _serve_waiters(self) -> None:
        for shape in list(self._waiters):
            self._boot_for_waiters(shape)

    def _boot_for_waiters(self, shape: tuple[str, int]) -> None:
        booting = [one for one in self._jails if one.state == "booting" and one.shape == shape]
        for one in booting:
            # It boots all the same, only slower.
            with contextlib.suppress(OSError):
                one.slot.group.weigh(cgroups.BOOT_WEIGHT)
        for _ in range(self._waiting(shape) - len(booting)):
            if not self._boot(shape, cgroups.BOOT_WEIGHT):
                break

    def _waiting(self, shape: tuple[str, int]) -> int:
        return sum(not waiter.abandoned for waiter in self._waiters.get(shape, ()))

    def _boot(self, shape: tuple[str, int], weight: float) -> bool:
        runtime, root = self._roots[shape[0]]
        try:
            slot = self._slots.take()
        except NoFreeSlot as error:
            if self._waiting(shape) and not self._make_room():
                self._fail_waiters(shape, str(error))
            return False
        except (cgroups.CgroupsUnavailable, OSError) as error:
            self._boot_failures += 1
            self._fail_waiters(shape, f"a slot could not be made: {error}")
            return False
        try:
            slot.group.limit(nsjail.memory_limit_bytes(shape[1]), PIDS_AT_BOOT, 1.0)
            slot.group.weigh(weight)
            command = nsjail.arguments(
                self._binary, slot.config_for(root), nsjail.runtime_command(runtime, shape[1]), slot.outer_id
            )
            process = jail.start(command, slot.group)
        except OSError as error:
            # Out of descriptors or processes: the host's trouble, which may pass.
            self._boot_failures += 1
            self._fail_waiters(shape, f"a jail could not be started: {error}")
            self._give_back(slot)
            return False
        booting = Jail(slot, process, shape)
        self._jails.add(booting)
        self._loop.watch(process.pidfd, lambda: self._on_exit(booting))
        self._loop.watch(process.pipes.control, lambda: self._on_booted(booting))
        booting.timer = self._loop.later(BOOT_TIMEOUT_S, lambda: self._kill(booting))
        return True

    def _make_room(self) -> bool:
        """End the jails that were parked first, one for each waiter that nothing else will serve. False if no slot
        is about to become free."""
        coming = [one for one in self._jails if one.state in ("booting", "dying")]
        lacking = sum(map(self._waiting, self._waiters)) - len(coming)
        for oldest in list(self._parked)[: max(0, lacking)]:
            self._end(oldest)
            coming.append(oldest)
        return bool(coming)

    def _on_booted(self, booted: Jail) -> None:
        self._loop.unwatch(booted.process.pipes.control)
        if booted.state != "booting":
            return
        try:
            hello = os.read(booted.process.pipes.control, len(protocol.BOOTED_FRAME))
        except BlockingIOError:
            hello = b""
        if hello != protocol.BOOTED_FRAME:
            # End of file: the exit is about to be seen. Anything else is no bootstrap of ours.
            self._kill(booted)
            return
        booted.cancel_timer()
        booted.process.find_runtime()
        booted.booted_at = time.monotonic()
        self._boot_failures = 0
        waiter = self._next_waiter(booted.shape)
        if waiter is not None:
            self._hand_out(booted, waiter, "cold")
        else:
            booted.state = "warm"
            self._warm.setdefault(booted.shape, deque()).append(booted)
            booted.timer = self._loop.later(nsjail.MAX_AGE_S, lambda: self._end(booted))
            self._serve_waiters()
        self._refill_soon()

    def _boot_failed(self, failed: Jail) -> None:
        reason = failed.process.boot_log() or f"it ended with code {failed.exit_code} before it was ready"
        self._boot_failures += 1
        self._fail_waiters(failed.shape, f"a jail could not be booted: {reason}")
        failed.state = "dying"
        self._forget(failed)

    def _next_waiter(self, shape: tuple[str, int]) -> Waiter | None:
        line = self._waiters.get(shape)
        while line:
            waiter = line.popleft()
            if not waiter.abandoned:
                return waiter
        return None

    def _fail_waiters(self, shape: tuple[str, int], reason: str) -> None:
        while (waiter := self._next_waiter(shape)) is not None:
            waiter.on_failed(reason)

    # Keeping warm

    def _refill_soon(self) -> None:
        if self._closing is not None or (self._refill_timer is not None and self._refill_timer.pending):
            return
        low, high = REFILL_BACKOFF_S
        delay = min(low * 2 ** (self._boot_failures - 1), high) if self._boot_failures else REFILL_DELAY_S
        self._refill_timer = self._loop.later(delay, self.refill)

    def refill(self) -> None:
        """Boot one jail of the first shape that has too few; the next follows when it is ready."""
        if self._closing is not None or any(one.state == "booting" for one in self._jails):
            return
        for shape, target in self._targets.items():
            if len(self._warm.get(shape, ())) < target:
                self._boot(shape, cgroups.REFILL_WEIGHT)
                return

    def counts(self) -> dict[str, Any]:
        """How many jails there are in each state."""
        found: dict[str, int] = {}
        for one in self._jails:
            found[one.state] = found.get(one.state, 0) + 1
        return found

    # Stopping

    def drain(self) -> None:
        """Hand out no more, and end every jail that is not busy. `close` follows."""
        self._closing = lambda: None
        for one in list(self._jails):
            if one.state in ("warm", "parked", "booting"):
                self._end(one)
        for shape in list(self._waiters):
            self._fail_waiters(shape, "the launcher is stopping")

    def close(self, done: Callable[[], None]) -> None:
        """End every jail; `done` is called when all are gone."""
        self.drain()
        self._closing = done
        for one in list(self._jails):
            if one.state != "dying":
                self._end(one)
        if not self._jails:
            done()


def _report_late(ended: Jail, traffic: Traffic) -> None:
    """What a jail did outside after its last job's account was closed belongs to no run any more."""
    if traffic.bytes_in or traffic.bytes_out or traffic.refused:
        _log.warning(
            "slot %s: %d bytes in, %d bytes out and %d refusals after the end of its job",
            ended.slot.name,
            traffic.bytes_in,
            traffic.bytes_out,
            len(traffic.refused),
        )
