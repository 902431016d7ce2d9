"""Which jail serves which job: boots jails ahead, hands them out, keeps used ones for the same key, and
ends them.

States of a jail: booting, warm (never used), busy (one job), parked (used, stopped, kept for its key), dying.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from sandbox import cgroups, jail, nsjail, protocol
from sandbox.demand import Demand, Shape
from sandbox.figures import Figures
from sandbox.lease import Account, Jail, Request, Waiter
from sandbox.loop import Loop, Timer
from sandbox.memory import AMPLE, Memory
from sandbox.parking import Parking
from sandbox.proxylink import ProxyLink, Traffic
from sandbox.roots import Roots
from sandbox.slots import MAX_SLOTS, NoFreeSlot, Slot, Slots
from sandbox.stock import Stock

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
TRIM_S = 10.0
"""How often jails that nobody asks for any more are looked for."""
MAX_WARM = MAX_SLOTS // 2
"""Of all shapes together: the other half is for jobs."""
GIVE_BACK_AGAIN_S = (1.0, 4.0, 16.0, 60.0)
"""When a slot whose group could not be emptied is tried again; after the last it stays out of use."""
_log = logging.getLogger("millrace.launcher")


class Pool:
    def __init__(
        self,
        loop: Loop,
        slots: Slots,
        roots: Roots,
        wanted: Demand,
        proxy: ProxyLink | None,
        memory: Memory,
    ) -> None:
        """`wanted` says how many warm jails to keep per shape, `memory` what warm and parked jails may hold."""
        self._loop = loop
        self._slots = slots
        self._roots = roots
        roots.on_built = self._on_root_built
        self._stock = Stock(wanted, lambda shape: roots.ready(shape.runtime) is not None, MAX_WARM)
        self._proxy = proxy
        self._memory = memory
        self._idle_bytes = memory.for_idle_jails
        self._binary = nsjail.find_binary()
        self._jails: set[Jail] = set()
        self._parked = Parking()
        self._waiters: dict[Shape, deque[Waiter]] = {}
        self._figures = Figures()
        self._refill_timer: Timer | None = None
        self._closing: Callable[[], None] | None = None
        self._loop.later(TRIM_S, self._trim)

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
            return waiter
        if (used := self._take_parked(request)) is not None:
            self._hand_out(used, waiter, "reused")
            return waiter
        self._stock.demand.add(request.shape, time.monotonic())
        if (warm := self._stock.take(request.shape)) is not None:
            self._hand_out(warm, waiter, "warm")
            self._refill_soon()
        else:
            self._waiters.setdefault(request.shape, deque()).append(waiter)
            self._boot_for_waiters(request.shape)
        return waiter

    def _take_parked(self, request: Request) -> Jail | None:
        key = request.reuse_as
        used = self._parked.latest(key) if key is not None else None
        if used is None:
            return None
        if time.monotonic() - used.booted_at >= nsjail.MAX_AGE_S:
            self._end(used, "aged")
            return None
        self._parked.remove(used)
        if used.paused and not used.process.resume():
            self._end(used, "broken")
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
            self._end(chosen, "broken")
            waiter.on_failed(f"the limits of a jail cannot be set: {error}")
            return
        if self._proxy is not None and not chosen.assigned:
            self._proxy.assign(chosen.slot.name, request.hosts, request.egress_group)
            chosen.assigned = True
        chosen.state = "busy"
        chosen.request = request
        chosen.runs += 1
        chosen.cancel_timer()
        chosen.timer = self._loop.later(request.timeout_ms / 1000 + BACKSTOP_S, chosen.process.kill)
        waiter.on_ready(chosen, origin)

    # Taking back

    def finish(self, used: Jail, *, state: str, ended: bool, done: Callable[[Account], None]) -> None:
        """The job in `used` is over. `state` is "clean" when its jail may serve the same key again, else why not.

        `ended`: the jail is dead or is to be killed; `done` is called after its end, so that the account
        has its exit code and the kill counter. Otherwise `done` is called at once and the jail ends later.
        """
        used.cancel_timer()
        if ended and used.exit_code is None:
            used.on_exit.append(lambda: self._account(used, state, done))
            self._kill(used)
        else:
            self._account(used, state, done)

    def _account(self, used: Jail, state: str, done: Callable[[Account], None]) -> None:
        before = used.cpu_ms or 0.0
        try:
            reading = used.slot.group.read()
            # As long as the runtime lives, nothing was killed: it is the only process.
            oom_kills = 0 if used.exit_code is None else used.slot.group.oom_kills()
        except (OSError, ValueError) as error:
            _log.error("slot %s: what its job used cannot be read and counts as nothing: %s", used.slot.name, error)
            reading, oom_kills, state = cgroups.Reading(before, 0), 0, "broken"
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
            self._park_or_end(used, state)

        keep = state == "clean" and used.exit_code is None
        # A jail that never connected stays assigned: two messages to another process cost more than a small job.
        if self._proxy is None or (keep and not self._proxy.was_used(used.slot.name)):
            released(Traffic())
        else:
            used.assigned = False
            self._proxy.release(used.slot.name, released)

    def _park_or_end(self, used: Jail, state: str) -> None:
        key = used.request.reuse_as if used.request is not None else None
        unfit = self._unfit(used, state)
        if unfit or key is None:
            self._end(used, unfit or "fresh")
            return
        used.state = "parked"
        self._parked.add(used, key)
        used.timer = self._loop.later(PAUSE_AFTER_S, lambda: self._pause(used))
        self._end_parked_over(self._idle_bytes - self._stock.resident_bytes)

    def _unfit(self, used: Jail, state: str) -> str:
        """Why a used jail may not serve again; "" if it may."""
        if self._closing is not None:
            return "stopping"
        if state != "clean":
            return state
        if used.exit_code is not None:
            return "broken"
        if time.monotonic() - used.booted_at >= nsjail.MAX_AGE_S:
            return "aged"
        return "worn" if used.runs >= MAX_RUNS else ""

    def _end_parked_over(self, memory_bytes: int) -> None:
        while len(self._parked) and self._parked.resident_bytes > memory_bytes:
            for oldest in self._parked.oldest():
                self._end(oldest, "memory")

    def _pause(self, parked: Jail) -> None:
        if parked.process.pause():
            parked.paused = True
            parked.timer = self._loop.later(IDLE_S, lambda: self._end(parked, "idle"))
        else:
            self._end(parked, "broken")

    def abandon(self, used: Jail) -> None:
        """Whoever held `used` is gone: end it, and its connections to the outside."""
        self._end(used, "abandoned")

    # Ending

    def _end(self, unwanted: Jail, reason: str) -> None:
        """From any state; the slot is free again once the processes are gone."""
        unwanted.cancel_timer()
        if unwanted.state != "dying":
            self._figures.ended(unwanted.shape, reason)
        self._parked.remove(unwanted)
        self._stock.remove(unwanted)
        if self._proxy is not None and unwanted.assigned:
            unwanted.assigned = False
            self._proxy.release(unwanted.slot.name, lambda traffic: _report_late(unwanted, traffic))
        unwanted.state = "dying"
        if unwanted.exit_code is None:
            self._kill(unwanted)
        else:
            self._forget(unwanted)

    def _kill(self, unwanted: Jail) -> None:
        unwanted.cancel_timer()
        # What it is to do yet is to die; somebody may wait for its slot.
        with contextlib.suppress(OSError):
            unwanted.slot.group.weigh(cgroups.BOOT_WEIGHT)
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
            self._end(ended, "broken")

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
        # Whoever was put off until this slot is free hears it also if that failed.
        self._serve_waiters()
        self._refill_soon()

    # Booting

    def _serve_waiters(self) -> None:
        for shape in list(self._waiters):
            self._boot_for_waiters(shape)

    def _boot_for_waiters(self, shape: Shape) -> None:
        booting = [one for one in self._jails if one.state == "booting" and one.shape == shape]
        for one in booting:
            # It boots all the same, only slower.
            with contextlib.suppress(OSError):
                one.slot.group.weigh(cgroups.BOOT_WEIGHT)
        for _ in range(self._waiting(shape) - len(booting)):
            if not self._boot(shape, hurry=True):
                break

    def _waiting(self, shape: Shape) -> int:
        return sum(not waiter.abandoned for waiter in self._waiters.get(shape, ()))

    def _boot(self, shape: Shape, *, hurry: bool) -> bool:
        ready = self._roots.ready(shape.runtime)
        if ready is None:
            self._build_root(shape)
            return False
        runtime, root = ready
        try:
            slot = self._slots.take()
        except NoFreeSlot as error:
            if self._waiting(shape) and not self._make_room():
                self._fail_waiters(shape, str(error))
            return False
        except (cgroups.CgroupsUnavailable, OSError) as error:
            self._count_failure(shape)
            self._fail_waiters(shape, f"a slot could not be made: {error}")
            return False
        try:
            slot.group.limit(nsjail.memory_limit_bytes(shape.memory_mb), PIDS_AT_BOOT, 1.0)
            slot.group.weigh(cgroups.BOOT_WEIGHT if hurry else cgroups.REFILL_WEIGHT)
            command = nsjail.arguments(
                self._binary, slot.config_for(root), nsjail.runtime_command(runtime, shape, hurry=hurry), slot.outer_id
            )
            process = jail.start(command, slot.group)
        except OSError as error:
            # Out of descriptors or processes: the host's trouble, which may pass.
            self._count_failure(shape)
            self._fail_waiters(shape, f"a jail could not be started: {error}")
            self._give_back(slot)
            return False
        booting = Jail(slot, process, shape, started_at=time.monotonic())
        self._jails.add(booting)
        self._loop.watch(process.pidfd, lambda: self._on_exit(booting))
        self._loop.watch(process.pipes.control, lambda: self._on_booted(booting))
        booting.timer = self._loop.later(BOOT_TIMEOUT_S, lambda: self._kill(booting))
        return True

    def _build_root(self, shape: Shape) -> None:
        try:
            self._roots.build(shape.runtime)
        except OSError as error:
            self._fail_waiters(shape, f"the root of {shape.runtime} could not be built: {error}")

    def _on_root_built(self, name: str, problem: str) -> None:
        for shape in [shape for shape in self._waiters if shape.runtime == name]:
            if problem:
                self._fail_waiters(shape, f"the root of {name} cannot be built: {problem}")
        self._serve_waiters()
        self._refill_soon()

    def _make_room(self) -> bool:
        """End the jails that were parked first, then warm ones, one for each waiter that nothing else will serve.
        False if no slot is about to become free."""
        coming = [one for one in self._jails if one.state in ("booting", "dying")]
        lacking = sum(map(self._waiting, self._waiters)) - len(coming)
        for idle in self._idle()[: max(0, lacking)]:
            self._end(idle, "room")
            coming.append(idle)
        return bool(coming)

    def _idle(self) -> list[Jail]:
        """What may end for others: the jails that were parked first, then the warm ones that are asked for least."""
        return [*self._parked.oldest(len(self._parked)), *self._stock.coldest(time.monotonic())]

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
        self._figures.booted(booted.shape, booted.booted_at - booted.started_at)
        self._stock.has_booted(booted.shape)
        waiter = self._next_waiter(booted.shape)
        if waiter is not None:
            self._hand_out(booted, waiter, "cold")
        else:
            booted.state = "warm"
            self._stock.add(booted)
            with contextlib.suppress(OSError, ValueError):
                booted.resident_bytes = booted.slot.group.read().peak_memory_bytes
            booted.timer = self._loop.later(nsjail.MAX_AGE_S, lambda: self._end(booted, "aged"))
            self._serve_waiters()
        self._refill_soon()

    def _boot_failed(self, failed: Jail) -> None:
        reason = failed.process.boot_log() or f"it ended with code {failed.exit_code} before it was ready"
        self._count_failure(failed.shape)
        self._fail_waiters(failed.shape, f"a jail could not be booted: {reason}")
        failed.state = "dying"
        self._forget(failed)

    def _next_waiter(self, shape: Shape) -> Waiter | None:
        line = self._waiters.get(shape)
        while line:
            waiter = line.popleft()
            if not waiter.abandoned:
                return waiter
        return None

    def _fail_waiters(self, shape: Shape, reason: str) -> None:
        while (waiter := self._next_waiter(shape)) is not None:
            waiter.on_failed(reason)

    # Keeping warm

    def _refill_soon(self) -> None:
        if self._closing is None and (self._refill_timer is None or not self._refill_timer.pending):
            self._refill_timer = self._loop.later(REFILL_DELAY_S, self.refill)

    def _count_failure(self, shape: Shape) -> None:
        self._loop.later(self._stock.has_failed(shape, time.monotonic()), self._refill_soon)

    def refill(self) -> None:
        """Boot one jail of the shape that is asked for most and has too few; the next follows when it is ready."""
        if self._closing is not None or any(one.state == "booting" for one in self._jails):
            return
        shape = self._stock.lacking(time.monotonic())
        if shape is not None and self._make_memory(shape):
            self._boot(shape, hurry=False)

    def _make_memory(self, shape: Shape) -> bool:
        """Whether one more jail of this shape may be booted ahead, for which parked ones may have to go.

        For want of memory a warm jail of a shape that is asked for less goes first; then the next look finds room.
        """
        if self._memory.is_scarce(AMPLE):
            return False
        left = self._idle_bytes - self._stock.resident_bytes
        if left > 0 and not self._stock.is_full:
            self._end_parked_over(left)
            return True
        if (other := self._stock.giving_way(shape, time.monotonic())) is not None:
            self._end(other, "memory")
        return False

    def _trim(self) -> None:
        """End what nobody asks for any more, and what is idle when the host runs out of memory."""
        if self._closing is not None:
            return
        self._idle_bytes = self._memory.for_idle_jails
        for surplus in self._stock.surplus(time.monotonic()):
            self._end(surplus, "surplus")
        if self._memory.is_scarce():
            # Half of what is idle: the next look sees whether that was enough.
            idle = self._idle()
            for each in idle[: (len(idle) + 1) // 2]:
                self._end(each, "memory")
        self._refill_soon()
        self._loop.later(TRIM_S, self._trim)

    def counts(self) -> dict[str, int]:
        """How many jails there are in each state."""
        return dict(Counter(one.state for one in self._jails))

    def figures(self) -> dict[str, Any]:
        """What metrics show; see `Figures.take`."""
        now = time.monotonic()
        asked = self._stock.demand
        wanted = {shape: asked.wanted(shape, now) for shape in asked.shapes(now)}
        return self._figures.take(self._jails, wanted)

    # Stopping

    def drain(self) -> None:
        """Hand out no more, and end every jail that is not busy. `close` follows."""
        self._closing = lambda: None
        for one in list(self._jails):
            if one.state in ("warm", "parked", "booting"):
                self._end(one, "stopping")
        for shape in list(self._waiters):
            self._fail_waiters(shape, "the launcher is stopping")

    def close(self, done: Callable[[], None]) -> None:
        """End every jail; `done` is called when all are gone."""
        self.drain()
        self._closing = done
        for one in list(self._jails):
            if one.state != "dying":
                self._end(one, "stopping")
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
