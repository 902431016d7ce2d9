"""Compares the books: what clients were promised, what handlers said outside, and what the records and logs say."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.load import LINES, PERIOD_MS, RETRY, SUBSCRIBED, Load
from tests.chaos.outside import BEGIN, END, Word
from tests.chaos.rig import Rig

FINAL = {"succeeded", "failed", "timed_out", "cancelled"}
SHOWN = {"succeeded": "completed"}  # how the API names it, where it does so differently
_IDLE = ("millrace_queue_messages", "millrace_runs_in_work", "millrace_sync_waiting")
MOST_DESCRIPTORS = 120  # of one idle process: more than any needs, fewer than a leak per run or per fault makes
DESCRIPTORS_PER_JAIL = 10  # that the launcher needs besides, for jails that are kept
_LINE = re.compile(r"line (\d+) of \d+$", re.MULTILINE)
_MARK = "missing here"  # in each of the sentences that say so in a log
_LOST = "what the script wrote after this is missing"

Row = Mapping[str, Any]


@dataclass
class Verdict:
    """`problems` is empty when every promise held."""

    problems: list[str] = field(default_factory=list)
    runs: Counter[tuple[str, str]] = field(default_factory=Counter)  # by trigger, and by how they ended
    logs: Counter[str] = field(default_factory=Counter)
    retries: int = 0


def unrest(rig: Rig) -> dict[str, float]:
    """What is left to do; empty when it is quiet: no run is open, no event unrouted, no log in pieces, no jail busy."""
    (left,) = rig.rows(
        "SELECT (SELECT count(*) FROM run WHERE completed_at IS NULL) AS runs_open,"
        " (SELECT count(*) FROM run WHERE sent_at IS NOT NULL AND completed_at IS NULL) AS places_held,"
        " (SELECT count(*) FROM event WHERE routed_at IS NULL) AS events_unrouted,"
        " (SELECT count(*) FROM run WHERE log_key IS NULL AND log_chunks > 0) AS logs_in_pieces"
    )
    figures = {name: number for name, number in metrics(rig).items() if name in _IDLE or 'state="busy"' in name}
    return {name: number for name, number in (left | figures).items() if number}


def compare(rig: Rig, load: Load) -> Verdict:
    """Read all books. The platform still runs, and is quiet."""
    verdict = Verdict(problems=list(load.ledger.trouble))
    uuids = [row["uuid"] for row in rig.rows("SELECT uuid FROM script WHERE slug = ANY(%s)", list(_slugs(load)))]
    rows = rig.rows("SELECT run.*, script.slug FROM run JOIN script ON script.uuid = run.script_id"
                    " WHERE run.script_id = ANY(%s)", uuids)  # fmt: skip
    runs = {row["id"]: row for row in rows}
    for row in rows:
        verdict.runs[row["trigger"], row["error_code"] or row["status"]] += 1
    heard = rig.outside.heard()
    attempts = rig.rows("SELECT run_id, number FROM attempt WHERE run_id = ANY(%s)", list(runs))
    tried = Counter((row["run_id"], row["number"]) for row in attempts)
    verdict.retries = len(attempts)
    verdict.problems += [
        *_unfinished(rows), *_broken_promises(load, rig, runs), *_doubles(rig, rows), *_events(rig, rows),
        *_firings(rig, load, runs), *_batches(rig, rows), *_handlers(runs, heard, tried),
        *_retries(runs, tried), *_descriptors(rig),
    ]  # fmt: skip
    verdict.problems += _logs(rig, rows, heard, verdict.logs)
    return verdict


def leftovers(rig: Rig, groups: Iterable[str]) -> list[str]:
    """What a platform that was stopped left behind, of processes and of the control groups that it had."""
    left = [f"process {pid} is left: {rig.command(pid)}" for pid in rig.processes()]
    return left + [f"control group {path} is left" for path in groups if Path(path).exists()]


def _slugs(load: Load) -> Iterator[str]:
    yield from ("called", "retried", "batched", "hooked", *SUBSCRIBED, *load.first_due)


def _unfinished(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row["status"] not in FINAL or row["completed_at"] is None:
            yield f"run {row['id']} is {row['status']}, completed_at {row['completed_at']}"
        if row["lease_until"] is not None:
            yield f"run {row['id']} is over and still has a lease"


def _broken_promises(load: Load, rig: Rig, runs: Mapping[str, Row]) -> Iterator[str]:
    """What was accepted exists, under one id for each key, and ended as the client who waited was told."""
    known = {"event": {row["id"] for row in rig.rows("SELECT id FROM event")},
             "batch": {row["id"] for row in rig.rows("SELECT id FROM batch")}}  # fmt: skip
    for each in load.ledger.promises:
        if each.id not in known.get(each.kind, runs):
            yield f"{each.kind} {each.id} was accepted ({each.key}) and does not exist"
        elif each.status is not None:
            recorded = runs[each.id]["status"]
            if SHOWN.get(recorded, recorded) != each.status:
                yield f"run {each.id} was answered as {each.status} and is recorded as {recorded}"


def _doubles(rig: Rig, rows: Iterable[Row]) -> Iterator[str]:
    """Each cause has one run; and each run from the API and the hooks has a cause."""
    for names in (("event_id",), ("due_at",), ("delivery_id",)):
        causes = Counter((row["script_id"], *(row[name] for name in names)) for row in rows if row[names[0]])
        yield from (f"{names[0]} {cause} has {count} runs" for cause, count in causes.items() if count > 1)
    keyed = Counter(row["run_id"] for row in rig.rows("SELECT run_id FROM idempotency_key"))
    yield from (f"run {run} has {count} idempotency keys" for run, count in keyed.items() if count > 1)
    for row in rows:
        if row["slug"] in ("called", "retried") and row["id"] not in keyed:
            yield f"run {row['id']} of a request with an idempotency key has none"
        if row["slug"] == "hooked" and not row["delivery_id"]:
            yield f"run {row['id']} of a hook has no delivery"


def _events(rig: Rig, rows: Iterable[Row]) -> Iterator[str]:
    """Each event, known to a client or not, started each of its subscribers once."""
    started: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["event_id"]:
            started[row["event_id"]].append(row["slug"])
    for event in rig.rows("SELECT id, outcome, reason FROM event WHERE name LIKE 'chaos.%%'"):
        if event["outcome"] != "routed" or sorted(started[event["id"]]) != sorted(SUBSCRIBED):
            yield f"event {event} started {started[event['id']]}"


def _firings(rig: Rig, load: Load, runs: Mapping[str, Row]) -> Iterator[str]:
    """Each due time has its record, or the next record says that it passed; each firing has its run."""
    fired: defaultdict[str, dict[int, Row]] = defaultdict(dict)
    for row in rig.rows("SELECT firing.*, script.slug FROM firing JOIN script ON script.uuid = firing.script_id"):
        fired[row["slug"]][row["due_at"]] = row
        missed = row["outcome"] == "skipped" and (row["reason"] or "").startswith("Missed:")
        if not missed and (row["outcome"] != "ran" or row["run_id"] not in runs):
            yield f"firing {row}"
    for slug, first in load.first_due.items():
        for due in range(first, load.settled_at + 1, PERIOD_MS):
            later = [row for at, row in fired[slug].items() if at > due and row["reason"]]
            if due not in fired[slug] and not later:
                yield f"{slug} was due at {due} and there is no record of it"
        if unknown := [due for due in fired[slug] if (due - first) % PERIOD_MS]:
            yield f"{slug} fired at {unknown}, when it was not due"
    ran = {row["run_id"] for rows in fired.values() for row in rows.values()}
    yield from (f"run {run} has no firing" for run, row in runs.items() if row["due_at"] and run not in ran)


def _batches(rig: Rig, rows: Iterable[Row]) -> Iterator[str]:
    """Each batch, known to a client or not, has one run for each item, and one idempotency key."""
    items: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row["slug"] == "batched":
            items[row["batch_id"]].append(row["batch_index"])
    keys = Counter(row["run_id"] for row in rig.rows("SELECT run_id FROM idempotency_key"))
    batches = {row["id"]: row for row in rig.rows("SELECT id, total FROM batch")}
    for batch, row in batches.items():
        if sorted(items[batch]) != list(range(row["total"])) or keys[batch] != 1:
            yield f"batch {batch} has the items {sorted(items[batch])} and {keys[batch]} keys"
    yield from (f"runs of a batch {batch} that does not exist" for batch in items.keys() - batches.keys())


def _handlers(runs: Mapping[str, Row], heard: Counter[Word], tried: Counter[tuple[str, int]]) -> Iterator[str]:
    """What began outside is what the records say: once for each attempt that is recorded, and for no other."""
    for word, count in heard.items():
        row = runs.get(word.run)
        if row is None:
            yield f"{word} was said by a run that does not exist"
        elif row["attempt"] != word.attempt and not tried[word.run, word.attempt]:
            yield f"{word} was said {count} times, and there is no record of that attempt: {_short(row)}"
        elif count > 1:
            yield f"{word} was said {count} times: {_short(row)}"
    for row in runs.values():
        words = [heard[Word(row["id"], row["attempt"], what)] for what in (BEGIN, END)]
        if row["status"] == "succeeded" and words != [1, 1]:
            yield f"run {row['id']} succeeded, and began and ended {words} times outside: {_short(row)}"


def _retries(runs: Mapping[str, Row], tried: Counter[tuple[str, int]]) -> Iterator[str]:
    """Only a script with a retry policy has attempts before the last, and no more of them than its policy allows."""
    before = Counter(run for run, _ in tried.elements())
    for run, count in before.items():
        allowed = RETRY["count"] if runs[run]["slug"] == "retried" else 0
        if count > allowed:
            yield f"run {run} was tried again {count} times, and its policy allows {allowed}: {_short(runs[run])}"


def _descriptors(rig: Rig) -> Iterator[str]:
    most = MOST_DESCRIPTORS + DESCRIPTORS_PER_JAIL * len(rig.jails())
    for pid in rig.processes():
        open_ = len(list(Path(f"/proc/{pid}/fd").glob("*")))
        if open_ > most:
            yield f"process {pid} is idle and has {open_} file descriptors: {rig.command(pid)}"


def metrics(rig: Rig) -> dict[str, float]:
    """What /metrics says: names with labels to numbers."""
    text = httpx.get(f"{rig.platform.url}/metrics", timeout=30).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(number) for name, number in lines}


def _logs(rig: Rig, rows: Iterable[Row], heard: Counter[Word], kinds: Counter[str]) -> list[str]:
    with rig.platform.client() as client, ThreadPoolExecutor(4) as pool:
        texts = pool.map(lambda row: [(row, _log_of(client, row)), *_earlier_logs(client, row)], rows)
        problems = []
        for row, text in itertools.chain.from_iterable(texts):
            kind, problem = _judge_log(row, text, began=bool(heard[Word(row["id"], row["attempt"], BEGIN)]))
            kinds[f"of an earlier try: {kind}" if row.get("earlier") else kind] += 1
            if problem:
                problems.append(f"{problem}: {_short(row)}")
        return problems


def _earlier_logs(client: httpx.Client, row: Row) -> Iterator[tuple[Row, str | None]]:
    """A record and the log of each of its tries before the last."""
    if not row["tries"]:
        return
    answer = client.get(f"/scripts/{row['slug']}/runs/{row['id']}/attempts")
    assert answer.status_code == httpx.codes.OK, answer.text
    for each in answer.json()["attempts"]:
        if each["number"] != row["attempt"]:
            text = None if each["log_url"] is None else _stored(row, each["log_url"])
            yield {"id": row["id"], "slug": row["slug"], "attempt": each["number"], "status": each["status"],
                   "error_code": each["error_code"], "earlier": True}, text  # fmt: skip


def _log_of(client: httpx.Client, row: Row) -> str | None:
    answer = client.get(f"/scripts/{row['slug']}/runs/{row['id']}/logs")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    assert answer.status_code == httpx.codes.OK, answer.text
    return _stored(row, answer.json()["url"])


def _stored(row: Row, url: str) -> str:
    stored = httpx.get(url, timeout=30)
    assert stored.status_code == httpx.codes.OK, (row["id"], stored.text)
    return stored.text


def _judge_log(row: Row, text: str | None, *, began: bool) -> tuple[str, str | None]:
    """What kind of log it is; and what is wrong with it, if something is."""
    if text is None:
        if not began:
            return "none: never began", None
        # A script that was ended by force may have said nothing yet; but whoever lost it must say so.
        problem = f"run {row['id']} has no log, not even a mark in its place"
        return "none", None if _ended_by_force(row) else problem
    numbers = [int(each) for each in _LINE.findall(text)]
    if row["slug"] == "retried" and 1 in numbers:  # the last try is the one that the record is of
        numbers = numbers[len(numbers) - 1 - numbers[::-1].index(1) :]
    if numbers != sorted(set(numbers)):
        return "disordered", f"the log of run {row['id']} has lines twice or out of order: {numbers}"
    if numbers == list(range(1, LINES + 1)):
        return "whole", None
    if _MARK in text or _LOST in text:
        return "marked", None
    if _ended_by_force(row) and numbers == list(range(1, len(numbers) + 1)):
        return "as far as it came", None
    return "torn", f"the log of run {row['id']} lacks lines and says nothing of it: {numbers}"


def _ended_by_force(row: Row) -> bool:
    """Whether it may have ended anywhere, with all that it had written kept."""
    return bool(row["status"] != "succeeded" and row["error_code"] != "WORKER_LOST")


def _short(row: Row) -> str:
    names = ("id", "slug", "status", "error_code", "error", "attempt", "worker", "started_at", "completed_at",
             "log_key", "log_chunks", "usage")
    return str({name: row[name] for name in names if name in row})
