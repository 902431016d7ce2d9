"""A whole Millrace in an empty folder, client to client."""

import base64
import hashlib
import tempfile
import time
from pathlib import Path

import httpx

from bench.figures import repeat, report, show
from tests.platform import Platform, start_platform, stop_platform

HELLO = "exports.handler = async (payload) => ({ message: `Hello, ${payload.name || 'World'}!` });"
LOGGING = HELLO.replace("=> (", "=> (console.log('greeting'), ")


def run(runs: int, idle_s: float, idle_times: int) -> None:
    """Start it and print one line per measure."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        started = time.perf_counter()
        running = start_platform(Path(folder) / "home")
        show("start until the self-check is through", f"{time.perf_counter() - started:8.1f} s")
        try:
            measure(running, runs, idle_s, idle_times)
        finally:
            stop_platform(running)


def measure(running: Platform, runs: int, idle_s: float, idle_times: int) -> None:
    """All measures on one running platform."""
    with running.client() as client:
        for name, source, isolation in (("plain", HELLO, "reuse"), ("logging", LOGGING, "reuse"),
                                        ("fresh", HELLO, "fresh")):
            create(client, name, source, isolation)
        for name in ("plain", "logging"):
            repeat(lambda name=name: execute(client, name), 20)  # type: ignore[misc]
        report("sync hello, warm", repeat(lambda: execute(client, "plain"), runs), "p50 <= 6, p99 <= 25")
        report("sync hello with a log line, warm", repeat(lambda: execute(client, "logging"), runs))
        report("sync hello, a fresh jail each, 200 ms apart", repeat(lambda: execute(client, "fresh"), 30, pause_s=0.2))
        report("first run of a new script, 200 ms apart", first_runs(client, 20), "p50 <= 20")
        show("a batch of 10,000, from the request to the last end", f"{drain(client, 10_000):8.0f} runs/s", ">= 300")
        report("async accept", repeat(lambda: submit(client, "plain"), runs), "p99 <= 20")
        idle = [after_silence(client, idle_s) for _ in range(idle_times)]
        report(f"first run after {idle_s:.0f} s of silence", idle, "p50 <= 10")


def first_runs(client: httpx.Client, count: int) -> list[float]:
    """The first run of each of so many new scripts."""
    taken = []
    for number in range(count):
        create(client, f"new-{number:02d}", f"{HELLO} // {number}", "reuse")
        taken += repeat(lambda number=number: execute(client, f"new-{number:02d}"), 1, pause_s=0.2)  # type: ignore[misc]
    return taken


def drain(client: httpx.Client, count: int) -> float:
    """How many runs of a batch end each second, from the request that starts it."""
    create(client, "many", HELLO, "reuse")
    execute(client, "many")
    started = time.perf_counter()
    answer = client.post("/scripts/many/batches", json={"items": [{"name": "x"}] * count})
    answer.raise_for_status()
    url = f"/scripts/many/batches/{answer.json()['batch_id']}"
    show("a batch of 10,000 accepted after", f"{(time.perf_counter() - started) * 1000:8.0f} ms")
    while (shown := client.get(url).json())["status"] == "running":
        time.sleep(0.5)
    if shown["counts"]["completed"] != count:
        raise RuntimeError(f"not all completed: {shown}")
    return count / (time.perf_counter() - started)


def after_silence(client: httpx.Client, idle_s: float) -> float:
    """One run after nobody asked for anything for so long."""
    return repeat(lambda: execute(client, "plain"), 1, pause_s=idle_s)[0]


def create(client: httpx.Client, name: str, source: str, isolation: str) -> None:
    """A script of this source."""
    raw = source.encode()
    client.post("/scripts", json={
        "id": name, "display_name": name, "runtime": "nodejs20", "isolation": isolation,
        "script_content": base64.b64encode(raw).decode(), "script_hash": hashlib.sha256(raw).hexdigest(),
    }).raise_for_status()


def execute(client: httpx.Client, name: str) -> None:
    """One sync run; anything but its good end is an error."""
    answer = client.post(f"/scripts/{name}/execute", json={"mode": "sync", "trigger_type": "http", "payload": {}})
    if answer.status_code != 200 or answer.json()["status"] != "completed":
        raise RuntimeError(f"{answer.status_code}: {answer.text}")


def submit(client: httpx.Client, name: str) -> None:
    """One async run accepted."""
    client.post(
        f"/scripts/{name}/execute", json={"mode": "async", "trigger_type": "http", "payload": {}}
    ).raise_for_status()

