"""Two tenants' jails side by side, or one after the other in the same place: neither learns of the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sandbox.job import Limits, LogLine
from tests.sandbox.hostile.arena import RAW, Arena
from tests.sandbox.support import Ran, Recorder

COUNTER = "let runs = 0; exports.handler = () => [++runs, globalThis.loot ?? null]"
PATIENCE = Limits(timeout_ms=60_000)


class Pair:
    """Alice's jail says that it is ready and stays until Bob's is done."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def meet(self, alice: str, bob: str) -> tuple[Ran, Ran]:
        """Run `alice`, which must WAIT somewhere, and `bob` meanwhile."""
        ready: Future[None] = Future()
        over: Future[None] = Future()

        def answer(method: str, params: dict[str, Any]) -> Any:
            ready.set_result(None)
            return over.result(30)

        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(self._arena.run, self._source(alice), sink=Recorder(answer), limits=PATIENCE)
            ready.result(30)
            second = self._arena.run(self._source(bob), limits=PATIENCE)
            over.set_result(None)
            first = waiting.result()
        self._arena.check_next_run()
        return first, second

    def _source(self, body: str) -> str:
        return f"{RAW}\nexports.handler = async (payload, context) => {{ {body} }};"


@pytest.fixture
def pair(arena: Arena) -> Pair:
    return Pair(arena)


WAIT = "await context.publish('ready', 1);"
LISTEN = (
    "let met = 0; const s = real('net').createServer(() => { met++; }).listen({ path: PATH });"
    f" {WAIT} s.close(); return met"
)
CONNECT = (
    "return new Promise((done) => { const s = real('net').connect({ path: PATH });"
    " s.on('connect', () => done('connected')); s.on('error', (e) => done(e.code)); })"
)


def test_a_socket_without_a_file_is_not_reached_from_another_jail(pair: Pair) -> None:
    name = "'\\0millrace-meet'"
    first, second = pair.meet(LISTEN.replace("PATH", name), CONNECT.replace("PATH", name))
    assert (first.result, second.result) == (0, "ECONNREFUSED")


def test_a_socket_in_scratch_is_not_seen_from_another_jail(pair: Pair) -> None:
    name = "'/tmp/s'"
    first, second = pair.meet(LISTEN.replace("PATH", name), CONNECT.replace("PATH", name))
    assert (first.result, second.result) == (0, "ENOENT")


def test_a_file_in_scratch_is_not_seen_from_another_jail(pair: Pair) -> None:
    first, second = pair.meet(
        f"fs.writeFileSync('/tmp/note', 'from alice'); {WAIT} return fs.readdirSync('/tmp')",
        "fs.writeFileSync('/tmp/other', 'from bob'); return fs.readdirSync('/tmp')",
    )
    assert (first.result, second.result) == (["note"], ["other"])


def test_a_neighbour_has_no_process_to_signal_and_no_memory_to_read(pair: Pair) -> None:
    pids = "[process.pid, process.ppid, fs.readdirSync('/proc').filter((name) => /^\\d/.test(name))]"
    first, second = pair.meet(f"{WAIT} return {pids}", f"process.kill(process.pid, 'SIGKILL'); return {pids}")
    assert first.result == second.result == [1, 0, ["1"]]


def test_two_jails_are_two_users_outside(pair: Pair) -> None:
    """As root each slot has its own id; an ordinary user has only one to give."""
    mapped = "return fs.readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\\s+/).map(Number)"
    first, second = pair.meet(f"{WAIT} {mapped}", mapped)
    assert first.result[0] == second.result[0] == 65534
    assert first.result[2] == second.result[2] == 1
    assert 0 not in (first.result[1], second.result[1])
    assert first.result[1] != second.result[1] or first.result[1] < 1_900_000_000


def test_every_namespace_is_the_jails_own(pair: Pair) -> None:
    kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
    names = f"return {kinds}.map((name) => fs.readlinkSync('/proc/self/ns/' + name))"
    first, second = pair.meet(f"{WAIT} {names}", names)
    assert set(first.result).isdisjoint(second.result)


def test_the_only_thing_on_the_way_out_is_ones_own(pair: Pair) -> None:
    look = "return [fs.readdirSync('/run'), fs.statSync('/run/egress.sock').ino]"
    first, second = pair.meet(f"{WAIT} {look}", look)
    assert first.result[0] == second.result[0] == ["egress.sock"]
    assert first.result[1] != second.result[1]


@pytest.mark.parametrize(
    "other",
    [
        {"reuse_key": "cross-bob"},
        {"reuse_key": None},
        {"reuse_key": "cross-alice", "egress_hosts": ()},
        {"reuse_key": "cross-alice", "egress_hosts": ("example.com",)},
        {"reuse_key": "cross-alice", "limits": Limits(memory_mb=200, timeout_ms=20_000)},
        {"reuse_key": "cross-alice", "limits": Limits(pids=60, timeout_ms=20_000)},
        {"reuse_key": "cross-alice", "limits": Limits(cpus=0.5, timeout_ms=20_000)},
        {"reuse_key": "cross-alice "},
        {"reuse_key": "CROSS-ALICE"},
        {"reuse_key": ""},
    ],
    ids=str,
)
def test_a_jail_that_served_one_key_serves_no_other(arena: Arena, other: dict[str, Any]) -> None:
    assert arena.run(f"globalThis.loot = 'alice'; {COUNTER}", reuse_key="cross-alice").result[1] == "alice"
    for _ in range(2):
        ran = arena.run(COUNTER, **other)
        assert ran.result[1] is None
    arena.check_next_run()


def test_many_keys_in_turn_never_meet(arena: Arena) -> None:
    """More keys than warm jails, over and over: each sees its own past alone."""
    for round_ in range(1, 4):
        for number in range(6):
            source = f"globalThis.owner ??= {number}; let runs = 0; exports.handler = () => [globalThis.owner, ++runs];"
            owner, runs = arena.run(source, reuse_key=f"turn-{number}").result
            assert owner == number
            assert runs <= round_
    arena.check_next_run()


def test_lines_of_one_run_never_reach_another(arena: Arena) -> None:
    body = "for (let i = 0; i < 300; i++) { console.log(payload); if (i % 50 === 0) await later(1); }"
    source = f"{RAW}\nexports.handler = async (payload) => {{ {body} return payload; }}"

    def speak(number: int) -> tuple[Any, list[LogLine]]:
        ran = arena.run(source, f"tenant-{number}", reuse_key=f"speaker-{number % 3}")
        return ran.result, ran.sink.lines

    with ThreadPoolExecutor(6) as threads:
        for number, (result, lines) in enumerate(threads.map(speak, range(12))):
            assert result == f"tenant-{number}"
            assert {line.text for line in lines} == {f"tenant-{number}"}
            assert len(lines) == 300
    arena.check_next_run()
