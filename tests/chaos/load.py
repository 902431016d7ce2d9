"""Clients that do not give up, and the ledger of what they were promised.

A client whose connection is lost, or that hears of a fault of the platform's, asks again with the same key until it
has a definite answer. So whatever it was told, and however often it asked, there is one run.
"""

import base64
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos.rig import Rig

LINES = 20  # that a whole log has
SUBSCRIBED = ("event-one", "event-two")
SCHEDULED = tuple(f"scheduled-{number}" for number in range(6))
PERIOD_MS = 60_000  # the shortest that a schedule may have
HOOK_KEY = "a key that only the sender knows"
CLIENTS = (("sync", 4), ("async", 2), ("retried", 1), ("hook", 1), ("event", 1), ("batch", 1))
ITEMS = 3  # of a batch, of which two may be under way at once
RETRY = {"count": 8, "delay_seconds": 1, "factor": 1}
PATIENCE_S = 150.0  # after the load's end, for an answer
PAUSES_S = (0.2, 1.0)  # between two starts of one client: a load that two cores can carry, so that no queue grows
RETRY_S = 0.3
LONGEST_MS = 1_000  # that a handler takes

SOURCE = """
const URL = 'http://%(address)s/';

exports.handler = async (payload, context) => {
  const { ms = 500, luck = 1 } = payload.data || payload.body || payload;
  const tell = async (what) => {
    const body = JSON.stringify({ what, run: context.runId, attempt: context.attempt });
    const answer = await fetch(URL, { method: 'POST', body });
    if (!answer.ok) throw new Error(`told ${what}, heard ${answer.status}`);
  };
  await tell('begin');
  for (let n = 1; n <= %(lines)d; n += 1) {
    console.log(`line ${n} of %(lines)d`);
    if (n %% 5 === 0) await new Promise((resolve) => setTimeout(resolve, ms / 4));
  }
  await tell('end');
  if (Math.random() > luck) throw new Error('no luck this time');
  return { ran: context.runId };
};
"""


@dataclass(frozen=True)
class Promise:
    """What a client was told: a run, an event or a batch is accepted; `status` as well if it waited for the end."""

    kind: str  # sync | async | retried | hook | event | batch
    key: str
    id: str
    status: str | None = None


class Ledger:
    """What all clients were told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.promises: list[Promise] = []
        self.trouble: list[str] = []
        self.tries: Counter[str] = Counter()

    def promise(self, promise: Promise) -> None:
        """A client heard of a success."""
        with self._lock:
            self.promises.append(promise)

    def complain(self, what: str) -> None:
        """A client heard what it should not, or nothing at all."""
        with self._lock:
            self.trouble.append(what)

    def asked(self, how: str) -> None:
        """A client asked; `how` that went."""
        with self._lock:
            self.tries[how] += 1


class Load:
    """A steady load of every kind of start, from `start` until `stop`."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.seed = seed
        self.ledger = Ledger()
        self.first_due: dict[str, int] = {}  # by the id of the scheduled script
        self.settled_at = 0  # every time that was due until then has its record
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Create the scripts and set all clients going."""
        self._create_scripts()
        for kind, count in CLIENTS:
            for number in range(count):
                client = threading.Thread(target=self._client, args=(kind, number), name=f"{kind}-{number}")
                self._threads.append(client)
                client.start()

    def stop(self) -> None:
        """Ask for nothing new. Returns when every client has its answer, or has waited `PATIENCE_S` for it."""
        self._deadline = time.monotonic() + PATIENCE_S
        self._stopping.set()
        for each in self._threads:
            each.join()

    def overdue(self) -> bool:
        """Whether a schedule is due and has not fired."""
        now = time.time_ns() // 1_000_000
        due = self.rig.rows("SELECT 1 FROM schedule WHERE next_fire_at <= %s", now)
        if not due:
            self.settled_at = now
        return bool(due)

    def stop_schedules(self) -> None:
        """Take the schedules away, so that it can become quiet."""
        with self.rig.platform.client() as client:
            for slug in SCHEDULED:
                answer = client.put(f"/scripts/{slug}", json={"schedule": None})
                assert answer.status_code == 200, answer.text

    def _create_scripts(self) -> None:
        with self.rig.platform.client() as client:
            self._create(client, "called", max_concurrent_runs=6)
            self._create(client, "retried", retry=RETRY)
            self._create(client, "batched")
            hook = {"path": "/chaos", "methods": ["POST"], "auth": "key", "secret": HOOK_KEY, "mode": "async"}
            self._create(client, "hooked", triggers={"http": hook}, isolation="fresh")
            for slug in SUBSCRIBED:
                self._create(client, slug, triggers={"events": [{"pattern": "chaos.*"}]}, max_concurrent_runs=2)
            for slug in SCHEDULED:
                self._create(client, slug, schedule="rate(1 minute)")
        self._spread_schedules()

    def _create(self, client: httpx.Client, slug: str, **more: Any) -> None:
        source = (SOURCE % {"address": self.rig.outside.address, "lines": LINES}).encode()
        answer = client.post("/scripts", json={
            "id": slug, "display_name": slug, "runtime": "nodejs20", "timeout_seconds": 30,
            "script_content": base64.b64encode(source).decode(),
            "script_hash": hashlib.sha256(source).hexdigest(), **more,
        })  # fmt: skip
        assert answer.status_code == 201, answer.text

    def _spread_schedules(self) -> None:
        """As if each had been created some seconds after the other, within the last minute: one fires every few
        seconds then, while the shortest period of a schedule is a minute."""
        now = time.time_ns() // 1_000_000
        for number, slug in enumerate(SCHEDULED):
            due = now + (number + 1) * PERIOD_MS // (len(SCHEDULED) * 2)
            self.first_due[slug] = due
            self.rig.change(
                "UPDATE schedule SET anchor_at = %s, next_fire_at = %s"
                " WHERE script_id = (SELECT uuid FROM script WHERE slug = %s)",
                due - PERIOD_MS, due, slug,
            )  # fmt: skip

    def _client(self, kind: str, number: int) -> None:
        chance = random.Random(f"{self.seed} {kind} {number}")
        ask = {"hook": self._hook, "event": self._publish, "batch": self._batch}.get(kind, self._execute)
        with self.rig.platform.client() as client:
            client.timeout = httpx.Timeout(80, connect=10)
            count = 0
            while not self._stopping.is_set():
                count += 1
                ask(client, kind, f"{kind}-{number}-{count}", chance.randint(20, LONGEST_MS))
                self._stopping.wait(chance.uniform(*PAUSES_S))

    def _execute(self, client: httpx.Client, kind: str, key: str, ms: int) -> None:
        script = "retried" if kind == "retried" else "called"
        body = {"mode": "sync" if kind == "sync" else "async", "trigger_type": "http",
                "payload": {"ms": ms, "luck": 0.6 if kind == "retried" else 1}}  # fmt: skip
        self._insist(kind, key, "run_id",
                     lambda: client.post(f"/scripts/{script}/execute", json=body, headers={"Idempotency-Key": key}))

    def _hook(self, client: httpx.Client, kind: str, key: str, ms: int) -> None:
        address = f"{self.rig.platform.url}/hooks/{self.rig.platform.workspace}/chaos"
        headers = {"Authorization": f"Bearer {HOOK_KEY}", "Webhook-Id": key}
        self._insist(kind, key, "run_id", lambda: client.post(address, json={"ms": ms}, headers=headers))

    def _publish(self, client: httpx.Client, kind: str, key: str, ms: int) -> None:
        body = {"name": "chaos.happened", "data": {"ms": ms}, "subject": key}
        self._insist(kind, key, "event_id", lambda: client.post("/events", json=body))

    def _batch(self, client: httpx.Client, kind: str, key: str, ms: int) -> None:
        body = {"items": [{"ms": ms // ITEMS}] * ITEMS, "concurrency": 2}
        headers = {"Idempotency-Key": key}
        self._insist(kind, key, "batch_id", lambda: client.post("/scripts/batched/batches", json=body, headers=headers))

    def _insist(self, kind: str, key: str, id_name: str, ask: Callable[[], httpx.Response]) -> None:
        while time.monotonic() < self._deadline:
            try:
                answer = ask()
            except httpx.HTTPError as error:
                self.ledger.asked(type(error).__name__)
            else:
                self.ledger.asked(str(answer.status_code))
                if answer.is_success:
                    return self.ledger.promise(_promise(kind, key, id_name, answer.json()))
                if answer.status_code < 500 and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    return self.ledger.complain(f"{key} was refused: {answer.status_code} {answer.text[:300]}")
            time.sleep(RETRY_S)
        return self.ledger.complain(f"{key} had no answer within {PATIENCE_S:.0f} s of the end")


def _promise(kind: str, key: str, id_name: str, body: Mapping[str, Any]) -> Promise:
    ended = "duration" in body  # only what is over has one
    return Promise(kind, key, body[id_name], body["status"] if ended else None)
