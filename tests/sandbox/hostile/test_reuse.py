"""Jails that serve one key again and again: what an earlier run left behind, and what it does to the later ones."""

from __future__ import annotations

import pytest

from sandbox.job import Limits
from tests.sandbox.hostile.arena import RAW, Arena
from tests.sandbox.support import Ran

RUNS = 3
PATIENCE = Limits(timeout_ms=5000)


def in_turn(arena: Arena, key: str, body: str, top: str = "", runs: int = RUNS) -> list[Ran]:
    source = f"{RAW}\n{top}\nlet runs = 0;\nexports.handler = async (payload, context) => {{ runs++; {body} }};"
    ran = [arena.run(source, number, reuse_key=key, limits=PATIENCE) for number in range(runs)]
    arena.check_next_run()
    return ran


LEFT = {
    "a frame of each type": "setTimeout(() => { for (const t of 'SRECAB') write(4, frame(t, '{}', '1')); }, 1).unref()",
    "half a frame": "setTimeout(() => write(4, frame('R', '{}', '1').subarray(0, 8)), 1).unref()",
    "junk on every descriptor": "setTimeout(() => {"
    " for (const fd of [1, 2, 4, 5]) write(fd, Buffer.alloc(3000, 0xff)); }, 1)"
    ".unref()",
    "half a record": "setTimeout(() => write(5, record('I', 1, 'late').subarray(0, 15)), 1).unref()",
    "lines": "setInterval(() => { console.log('late'); write(1, 'late\\n'); }, 1).unref()",
    "a forged result of a thread": "new (real('worker_threads').Worker)("
    "`setTimeout(() => require('fs').writeSync(4,"
    " Buffer.from('${frame('R', '{\"left\":[]}', '\"late\"').toString('hex')}',"
    " 'hex')), 5)`, { eval: true }).unref()",
}  # fmt: skip


@pytest.mark.parametrize("left", LEFT)
def test_what_was_written_between_two_runs_is_nobodys(arena: Arena, left: str) -> None:
    """The same holds if it comes too late to be thrown away: then it breaks a run of the script that wrote it."""
    for ran in in_turn(arena, f"left {left}", f"{LEFT[left]}; return payload"):
        assert ran.kind in ("succeeded", "crash", "timeout")
        assert "late" not in "".join(ran.texts) or ran.kind != "succeeded" or left in ("lines", "half a record")


def test_polluted_prototypes_are_the_scripts_own(arena: Arena) -> None:
    """Whatever becomes of them: a run whose bootstrap was tampered with may fail in any way."""
    in_turn(
        arena,
        "pollution",
        "const found = [{}.polluted ?? 0, typeof context.getRemainingTimeMs(), payload]; Object.prototype.polluted = 1;"
        "Array.prototype.map = () => 'forged'; String.prototype.split = () => 'forged'; Map.prototype.get = () => 1;"
        "return found",
    )
    assert arena.run("exports.handler = () => ({}).polluted ?? 0", reuse_key="pollution of another").result == 0


def test_a_context_that_was_kept_speaks_for_no_later_run(arena: Arena) -> None:
    body = "globalThis.old ??= context; return old === context ? 1 : old.publish('a', 1).catch((e) => e.message)"
    results = [ran.result for ran in in_turn(arena, "old context", body)]
    assert results == [1, "This run has ended", "This run has ended"]


def test_secrets_of_another_key_are_in_no_context(arena: Arena) -> None:
    source = "exports.handler = (payload, context) => "
    source += "{ const had = globalThis.s; globalThis.s = context.secrets; return had ?? 0; }"
    for number in range(3):
        ran = arena.run(source, reuse_key=f"secrets {number}", secrets={"KEY": f"value {number}"})
        assert ran.result == 0
    arena.check_next_run()


ENDINGS = {
    "an error": "throw new Error('x')",
    "a thrown proxy": "throw new Proxy({}, {})",
    "a timer": "setTimeout(() => {}, 1e6); return 1",
    "a server": "real('net').createServer().listen({ path: '/tmp/s' }); return 1",
    "an exit": "process.exit(3)",
    "a result that is none": "return 1n",
    "a forged crash": "write(4, frame('Z', '{}', ''))",
    "a confession": "write(4, frame('R', '{\"left\":[\"Timeout\"]}', '1'))",
    "a leftover that is no list": "write(4, frame('R', '{\"left\":{}}', '1'))",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_jail_is_not_used_again_after(arena: Arena, ending: str) -> None:
    body = f"if (payload === 0) {{ {ENDINGS[ending]} }} return runs"
    first, second = in_turn(arena, f"ending {ending}", body, runs=2)
    assert first.outcome.usage.jail != "reused"
    assert (second.result, second.outcome.usage.jail != "reused") == (1, True)


def test_a_run_that_timed_out_takes_its_jail_along(arena: Arena) -> None:
    source = "let runs = 0; exports.handler = (payload) => { runs++; if (payload) for (;;); return runs; }"
    assert arena.run(source, False, reuse_key="slow").result == 1
    assert arena.run(source, True, reuse_key="slow", limits=Limits(timeout_ms=300)).kind == "timeout"
    assert arena.run(source, False, reuse_key="slow").result == 1
    arena.check_next_run()


def test_a_frozen_jail_does_not_run(arena: Arena) -> None:
    """Between two runs nothing of a script's moves, whatever it left behind."""
    body = (
        "globalThis.ticks ??= setInterval(() => { globalThis.count = (globalThis.count ?? 0) + 1; }, 1).unref() && 0;"
        "const seen = globalThis.count ?? 0; await later(payload ? 0 : 20); return [seen, globalThis.count ?? 0]"
    )
    source = f"{RAW} exports.handler = async (payload) => {{ {body} }};"
    first = arena.run(source, 0, reuse_key="frozen")
    for _ in range(40):
        arena.check_next_run()
    second = arena.run(source, 1, reuse_key="frozen")
    assert first.kind == second.kind == "succeeded"
    if second.outcome.usage.jail == "reused":
        # What ran in the moments before the freeze and after the thaw; the honest runs between took far longer.
        assert second.outcome.usage.cpu_ms < 1000
    arena.check_next_run()
