"""The sandbox alone: what a jail costs to boot, to use, to keep and to end, and what floods cost the worker."""

import json
import os
import resource
import select
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.figures import repeat, report, show
from sandbox import nsjail, runtimes
from sandbox.client import Sandbox
from sandbox.demand import Shape
from sandbox.job import MIB, Job, Limits, LogLine, Outcome
from tests.launcher import launcher_process
from tests.sandbox.processes import children, jails, settled_census
from tests.sandbox.support import Recorder

HELLO = b"exports.handler = async (payload) => ({ message: `Hello, ${payload.name}!` });"
AXIOS = b"const axios = require('axios'); exports.handler = async () => axios.VERSION;"
SPIN = b"exports.handler = async () => { for (;;); };"
PYTHON_HELLO = b"def handler(payload, context):\n    return {'message': f\"Hello, {payload['name']}!\"}\n"
PAYLOAD = b'{"name": "x"}'
DESCRIPTORS_OF_A_JAIL = 8  # in the launcher: five ends of pipes, the boot log, two of processes
AT_ONCE = 2 * (os.cpu_count() or 1)
ROUNDS = 5

LOG_20_MB_A_SECOND = b"""
exports.handler = async () => {
  const line = 'x'.repeat(990), begun = Date.now();
  for (let sent = 0; sent < 100e6; ) {
    if (sent > (Date.now() - begun) * 20e3) { await new Promise((r) => setTimeout(r, 5)); continue; }
    for (let n = 0; n < 100; n++) console.log(line);
    sent += 100 * 1000;
  }
  return Date.now() - begun;
};"""
FLOOD = b"""
exports.handler = async () => {
  const fs = process.binding('fs'), junk = Buffer.alloc(1 << 20, 97), begun = Date.now();
  let written = 0;
  while (Date.now() - begun < 10000) written += fs.writeBuffer(FD, junk, 0, junk.length, null, undefined, {});
  return written;
};"""
REQUESTS = """
const http = require('http');
const once = (agent) => new Promise((resolve, reject) => {
  const begun = performance.now();
  http.get(URL, { agent }, (answer) => {
    answer.on('data', () => {}).on('end', () => resolve(performance.now() - begun));
  }).on('error', reject);
});
async function measure() {
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 }), fresh = new http.Agent({ keepAlive: false });
  const taken = { kept: [], fresh: [] };
  for (let n = 0; n < 320; n++) {
    taken.kept.push(await once(kept));
    taken.fresh.push(await once(fresh));
    await new Promise((r) => setTimeout(r, 1));
  }
  kept.destroy();
  return { kept: taken.kept.slice(20), fresh: taken.fresh.slice(20) };
}
"""
SERVER = """
require('http').createServer((q, s) => s.end('ok')).listen(0, '127.0.0.1', function () {
  console.log(this.address().port);
});"""


class Deaf(Recorder):
    """Keeps nothing of what a run says, but when its jail was there."""

    assigned_at = 0.0

    def on_assigned(self) -> bool:
        self.assigned_at = time.perf_counter()
        return True

    def on_log(self, lines: Sequence[LogLine]) -> None:
        """Not kept."""


def run(runs: int, soak: int) -> None:
    """One line per measure."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, upstream() as port:
        os.chmod(folder, 0o755)  # jails run under other ids
        home = Path(folder) / "home"
        with launcher(home, "4", port) as (process, jail):
            assignment(jail, runs)
            libraries(jail)
            idle_memory(process.pid, jail)
            teardown(process.pid, jail)
            egress(jail, port)
            floods(jail)
        throughput(home)
        with launcher(home, str(AT_ONCE), port) as (process, jail):
            leave_nothing(process.pid, home, jail, soak)


class Bench:
    """Runs jobs in the jails of one launcher."""

    def __init__(self, socket_path: Path) -> None:
        self._sandbox = Sandbox(socket_path)
        self.sink = Deaf()

    def __call__(self, source: bytes, name: str = "nodejs20", **fields: object) -> Outcome:
        """Anything but a success is an error, unless the run has a time limit of its own."""
        main = runtimes.named(name).main
        job = Job(run_id="r", files={main: source}, main=main, entry_point="handler", payload=PAYLOAD, runtime=name,
                  **fields)  # type: ignore[arg-type]  # the fields of a job, by name
        return self._sandbox.run(job, self.sink, threading.Event())

    def well(self, source: bytes, name: str = "nodejs20", **fields: object) -> Outcome:
        """The same, which must succeed."""
        outcome = self(source, name, **fields)
        if outcome.error is not None:
            raise RuntimeError(str(outcome))
        return outcome


@contextmanager
def launcher(home: Path, warm: str, port: int) -> Iterator[tuple["subprocess.Popen[bytes]", Bench]]:
    """A launcher with so many warm jails, whose scripts may reach the port."""
    allow = f"127.0.0.1:{port}"
    with launcher_process(home, MILLRACE_WARM_JAILS=warm, MILLRACE_EGRESS_ALLOW=allow) as (process, socket_path):
        time.sleep(2)
        yield process, Bench(socket_path)


@contextmanager
def upstream() -> Iterator[int]:
    """A web server of Node's on the loopback interface; its port."""
    binary = runtimes.named("nodejs20").binary
    server = subprocess.Popen([binary, "-e", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate()


def assignment(jail: Bench, runs: int) -> None:
    """From asking for a jail to having the result."""
    for name, source in (("nodejs20", HELLO), ("python3.11", PYTHON_HELLO)):
        if name not in runtimes.load_all():
            continue
        once, again = partial(jail.well, source, name), partial(jail.well, source, name, reuse_key=name)
        timed(once, 12, 0.3)
        fresh, taken = timed(once, 30, 0.3)
        report(f"{name}: a booted jail, from assignment to the result", taken, "p50 <= 1.5")
        report(f"{name}: the same, from asking for it to its account", fresh)
        timed(again, 50)
        kept, taken = timed(again, runs)
        report(f"{name}: a reused jail, from assignment to the result", taken, "p50 <= 0.4")
        report(f"{name}: the same, from asking for it to its account", kept)


def timed(action: Callable[[], Outcome], times: int, pause_s: float = 0) -> tuple[list[float], list[float]]:
    """Milliseconds of each call, and of the part between handing the job over and its end."""
    outcomes: list[Outcome] = []
    taken = repeat(lambda: outcomes.append(action()), times, pause_s)
    return taken, [each.duration_ms for each in outcomes]


def libraries(jail: Bench) -> None:
    """A script that loads axios, in a jail of either kind."""
    plain, loaded = partial(jail.well, AXIOS), partial(jail.well, AXIOS, preloaded=True)
    report("nodejs20 with axios, a fresh plain jail", repeat(plain, 8, pause_s=0.5))
    repeat(loaded, 4, pause_s=1.0)
    report("nodejs20 with axios, a fresh jail that has it loaded", repeat(loaded, 12, pause_s=1.0))


def idle_memory(pid: int, jail: Bench) -> None:
    """PSS of warm jails, nsjail and runtime together, while several of a kind share what can be shared."""
    jail.well(PYTHON_HELLO, "python3.11")
    time.sleep(3)
    found: dict[str, list[float]] = {}
    for each in jails(pid):
        for runtime in children(each):
            command = Path(f"/proc/{runtime}/cmdline").read_bytes()
            kind = "with libraries" if b"axios" in command else "Python" if b"python" in command else "plain"
            found.setdefault(kind, []).append(pss_mb(each) + pss_mb(runtime))
    for kind, aim in (("plain", "<= 10"), ("with libraries", "<= 25"), ("Python", "")):
        if kind in found:
            median = statistics.median(found[kind])
            show(f"idle booted jail, {kind}: PSS", f"{median:8.1f} MB  (n={len(found[kind])})", aim)


def pss_mb(pid: int) -> float:
    """Its share of the memory that it uses."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} shows no PSS")


def teardown(pid: int, jail: Bench) -> None:
    """From the end of a run's time to the end of the last process of its jail."""
    taken = []
    for _ in range(20):
        limit_ms = 400
        with ThreadPoolExecutor(1) as threads:
            run = threads.submit(jail, SPIN, limits=Limits(timeout_ms=limit_ms))
            time.sleep(0.25)
            spinning = max(jails(pid), key=lambda each: sum(map(cpu_ticks, children(each))))
            end = os.pidfd_open(spinning)
            waiting = select.poll()
            waiting.register(end, select.POLLIN)
            waiting.poll()
            taken.append((time.perf_counter() - jail.sink.assigned_at) * 1000 - limit_ms)
            os.close(end)
            run.result()
        time.sleep(0.3)
    report("teardown of a spinning jail", taken, "p50 <= 5")


def cpu_ticks(pid: int) -> int:
    """What a process has used so far."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def egress(jail: Bench, port: int) -> None:
    """What the way through the proxy adds to a request."""
    code = REQUESTS.replace("URL", json.dumps(f"http://127.0.0.1:{port}/"))
    binary = runtimes.named("nodejs20").binary
    outside = f"{code} measure().then((taken) => console.log(JSON.stringify(taken)))"
    direct = json.loads(subprocess.check_output([binary, "-e", outside]))
    through = json.loads(jail.well(f"{code} exports.handler = measure;".encode()).result or b"{}")
    for kind, name, aim in (("fresh", "new", "<= 2"), ("kept", "kept", "<= 0.5")):
        with_proxy, without = statistics.median(through[kind]), statistics.median(direct[kind])
        show(f"http over the proxy, a {name} connection: added to the median",
             f"{with_proxy - without:8.2f} ms  ({with_proxy:.2f} through, {without:.2f} direct)", aim)  # fmt: skip


def floods(jail: Bench) -> None:
    """What a loud run costs this process, which is its worker."""
    loud, flooding = Limits(timeout_ms=60_000, log_bytes=200 * MIB), Limits(timeout_ms=60_000)
    for name, source, limits in (
        ("a run that logs 20 MB/s", LOG_20_MB_A_SECOND, loud),
        ("a run that floods descriptor 1", FLOOD.replace(b"FD", b"1"), flooding),
        ("a run that floods descriptor 5", FLOOD.replace(b"FD", b"5"), flooding),
    ):
        cost(name, partial(jail.well, source, limits=limits))


def cost(name: str, action: Callable[[], Outcome]) -> None:
    """Memory and cpu of this process while it carries one run."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    outcome = action()
    after, took = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    grown = (after.ru_maxrss - before.ru_maxrss) / 1024
    show(f"{name}: worker's share of a core", f"{100 * cpu / took:8.1f} %  ({took:.1f} s, result {outcome.result!r},"
         f" {outcome.usage.log_bytes / MIB:.0f} MB kept, peak memory +{grown:.1f} MB)", "< 5 %")  # fmt: skip


def throughput(home: Path) -> None:
    """Fresh jails one after the other on all cores, beside bare nsjail and Node: in turns, since hosts change speed."""
    root = next((home / "sandbox" / "roots").glob("nodejs20-*"))
    # Nothing is booted ahead: it would be a gift to the one and a burden to the other.
    with launcher_process(home, MILLRACE_WARM_JAILS="0") as (_, socket_path):
        for name, source, script in (("hello", HELLO, "0"), ("axios", AXIOS, "require('axios')")):
            bare = partial(boot_bare, home, root, script)
            once = partial(Bench(socket_path).well, source, preloaded=name == "axios")
            per_second(once, 20)
            rounds = [(per_second(bare, 60), per_second(once, 60)) for _ in range(ROUNDS)]
            ratio = statistics.median(fresh / empty for empty, fresh in rounds)
            empty, fresh = (statistics.median(column) for column in zip(*rounds, strict=True))
            show(f"nodejs20 {name}: fresh jails, {AT_ONCE} at once", f"{fresh:8.1f} runs/s  ({empty:.1f} bare boots/s,"
                 f" {100 * ratio:.0f} %, medians of {ROUNDS} rounds)", ">= 85 %")  # fmt: skip


def per_second(action: Callable[[], object], count: int) -> float:
    """How many of these are done in a second, some at once."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda _: action(), range(count)))
    return count / (time.perf_counter() - begun)


def boot_bare(home: Path, root: Path, script: str) -> None:
    """nsjail with our configuration, and Node with a script of one line instead of the bootstrap."""
    run = home / "bare"
    run.mkdir(exist_ok=True)
    config = home / "bare.cfg"
    if not config.exists():
        config.write_text(nsjail.render_config(root, run))
    command = list(nsjail.runtime_command(runtimes.named("nodejs20"), Shape("nodejs20", 256)))[:-1]
    inside = f"process.chdir('/boot'); module.paths.push('/boot/node_modules'); {script}"
    arguments = nsjail.arguments(nsjail.find_binary(), config, [*command, "-e", inside], nsjail.FIRST_OUTER_ID + 9_999)
    # The descriptors that nsjail passes on, and writes to.
    with_descriptors = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 5>&1 6>&2', "sh", *arguments]
    subprocess.run(with_descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True)  # fmt: skip


def leave_nothing(pid: int, home: Path, jail: Bench, count: int) -> None:
    """Many runs, a tenth of them in fresh jails; raises if anything is left but the jails that wait for more."""
    slots = home / "sandbox" / "slots"

    def traces() -> dict[str, float]:
        seen, made = settled_census(pid, home), len(os.listdir(slots))
        return {
            "descriptors beside jails": seen.descriptors - DESCRIPTORS_OF_A_JAIL * seen.jails,
            "groups per slot": seen.groups / made,
            "files per slot": sum(1 for _ in slots.glob("**/*")) / made,
            "mounts": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        }

    def one(number: int) -> None:
        jail.well(HELLO, reuse_key=None if number % 10 == 0 else f"k{number % 20}")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(one, range(400)))
        time.sleep(5)
        before, begun = traces(), time.perf_counter()
        list(threads.map(one, range(count)))
        took = time.perf_counter() - begun
    time.sleep(5)
    after = traces()
    show(f"{count} runs leave behind", f"{after} after, {before} before, in {took:.0f} s; jails kept ready:"
         f" {settled_census(pid, home).jails}")  # fmt: skip
    if after != before:
        raise RuntimeError("something was left behind")
