"""The end of a run, told to whoever asked for it: one callback for each run, at least once, signed and tried again.

`record` writes it in the transaction that ends the run, so that none is forgotten. A worker takes what is due with a
lease, posts it, and settles it under that lease: one that dies in between leaves it to the next, which sends it again
under the same `webhook-id`. A run whose script and caller gave no address costs nothing.
"""

import base64
import ipaddress
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee

from millrace import logs, metrics, models, secrets, signatures, vault
from millrace.compiled import Compiled, place
from millrace.database import transaction
from millrace.errors import Conflict, Invalid, NotFound
from millrace.models import Callback, Run, Script, Workspace
from millrace.models.run import CANCELLED, FAILED, SUCCEEDED, TIMED_OUT
from millrace.models.script import DELETED
from millrace.services import Services

STATUSES = PENDING, DELIVERED, GIVEN_UP = "pending", "delivered", "failed"
RETRIED = "retried"  # what may become of a try, beside DELIVERED and GIVEN_UP
DELAYS_S = (5, 30, 120, 600, 3600, 6 * 3600)
"""How long after each failed try the next one follows. After the last it is given up."""
JITTER = 0.2  # the part of a delay that chance may add to it
LEASE_MS = 60_000
PER_WORKSPACE = 8  # on their way at once from one process, so that nobody's receivers hold up another's
_WORKSPACES = 128  # that are asked one by one where very many are due
_PER_LOOK = 64  # of each of them that are known before the next look
MAX_URL = 2000
MAX_DELIVERIES = 10  # as many tries are kept; more than one round has
_SKEW_MS = 5_000  # a lease further ahead than hosts differ was taken before the clock was set back
_MOST = 2_000  # that are looked at to choose from
_PART = 500  # rows that one statement names
_SECRET = "callback secret"  # the name under which it is sealed; no script's secret can have a space
SECRET_LENGTH = (8, 500)
LEAST_KEY_BYTES = 16  # fewer can be tried out on one callback
_WORDS = {SUCCEEDED: "completed", FAILED: "failed", TIMED_OUT: "timed_out", CANCELLED: "cancelled"}

log = logging.getLogger(__name__)


# Addresses


@dataclass(frozen=True)
class Address:
    """Where to post: `authority` is host and port as they were given, `target` what the request line names."""

    tls: bool
    authority: str
    target: str


_URL = re.compile(r"(https?)://([^/?#]*)([/?].*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def parse_url(url: str) -> Address:
    """Take an address apart. Raises ValueError with the rule that it breaks, as the end of "must ..."."""
    if not 1 <= len(url) <= MAX_URL:
        raise ValueError(f"have from 1 to {MAX_URL} characters")
    if not all("!" <= character <= "~" for character in url):
        raise ValueError("be ASCII without spaces: punycode in the host, percent-encoding after it")
    if "#" in url:
        raise ValueError("have no fragment, which nobody would ever be sent")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("begin with http:// or https:// and a host")
    scheme, authority, rest = found.groups(default="")
    if "@" in authority:
        raise ValueError("have no user and password in it: the signature says who sends")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not _is_host(parts[1]):
        raise ValueError("name a host as example.com, 192.0.2.1 or [2001:db8::1], with or without :port")
    if parts[2] is not None and not 0 < int(parts[2]) <= 65_535:
        raise ValueError("have a port from 1 to 65535")
    return Address(scheme.lower() == "https", authority, rest if rest.startswith("/") else f"/{rest}")


def _is_host(text: str) -> bool:
    """As the rules of the way out have it, so that nothing is accepted that no worker would ever post to."""
    try:
        if text.startswith("["):
            ipaddress.IPv6Address(text[1:-1])
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        labels = text.split(".")
        return len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and labels[-1][0].isalpha()
    return True


def check_url(url: str) -> None:
    """Raises Invalid for what is no address to tell anything to."""
    try:
        parse_url(url)
    except ValueError as error:
        # A password that somebody put into it is not repeated.
        raise Invalid(f"callback_url must {error}.", field="callback_url", value=None if "@" in url else url) from None


# Secrets


def check_secret(secret: str) -> None:
    """Raises Invalid for what no receiver could check signatures with. Never repeats it."""
    low, high = SECRET_LENGTH
    if not low <= len(secret) <= high:
        raise Invalid(f"callback_secret must have from {low} to {high} characters.", field="callback_secret")
    signatures.validate_secret("standard", secret, "callback_secret")
    if len(signatures.standard_key(secret)) < LEAST_KEY_BYTES:
        raise Invalid(f"callback_secret must be base64 of at least {LEAST_KEY_BYTES} bytes.", field="callback_secret")


def secure(services: Services, script: Script, given: str | None, random: vault.Randomness = os.urandom) -> None:
    """See to it that what is told of a script with an address is signed, in the transaction that changes the script.

    `given` takes the place of the secret that it has. A script that is to have one and was given none gets a new one,
    which is in `script.fresh_callback_secret` this one time.
    """
    if given is None and (script.callback_url is None or script.callback_secret is not None):
        return
    secret = given
    if secret is None:
        secret = script.fresh_callback_secret = "whsec_" + base64.b64encode(random(24)).decode()
    script.callback_secret = secrets.seal(services, script, _SECRET, secret)


def check_signed(script: Script) -> None:
    """Raises Invalid if what is told of this script's runs could not be signed."""
    if script.callback_secret is None:
        raise Invalid(
            f"callback_url needs a secret to sign with: set callback_secret of the script '{script.slug}' first.",
            field="callback_url",
        )


# Ends of runs


def record(run: Run, script: Script, now: int) -> None:
    """Have the end of a run told, in the transaction that ends it. Does nothing if nobody gave an address.

    What the run and the script say of addresses must have been read.
    """
    url = run.callback_url
    if run.debounce_key is not None:  # another call may have taken its place since it was read
        url = Run.select(Run.callback_url).where(Run.id == run.id).scalar()
    url = url or script.callback_url
    if url is not None:
        Callback.insert(
            id=run.id, workspace=script.workspace_id, script=script.uuid, run=run.id, url=url, status=PENDING,
            deliveries=[], created_at=now, next_at=now,
        ).on_conflict_ignore().execute()  # fmt: skip


def record_many(script: Script, run_ids: Sequence[str], now: int) -> int:
    """As `record`, for those of these runs of one script that are over and have none yet. Returns how many.

    In the transaction that ends them. One statement for some hundreds.
    """
    count = 0
    for start in range(0, len(run_ids), _PART):
        url = peewee.fn.COALESCE(Run.callback_url, peewee.Value(script.callback_url))
        known = (Run.id, Run.workspace, Run.script, Run.id, url)
        same = (peewee.Value(each) for each in (PENDING, "[]", now, now))
        ended = Run.select(*known, *same).where(
            Run.id.in_(run_ids[start : start + _PART]), Run.script == script.uuid, Run.completed_at.is_null(False),
            url.is_null(False),
        )  # fmt: skip
        fields = (
            Callback.id, Callback.workspace, Callback.script, Callback.run, Callback.url, Callback.status,
            Callback.deliveries, Callback.created_at, Callback.next_at,
        )  # fmt: skip
        count += Callback.insert_from(ended, fields).on_conflict_ignore().as_rowcount().execute()
    return count


# Deliveries


@dataclass(frozen=True)
class Taken:
    """A callback that a worker has until `leased_until`, to post it. `secret` is None if it does not open."""

    id: str
    workspace_id: str
    url: str
    body: bytes
    secret: str | None = field(repr=False)
    leased_until: int
    deliveries: list[dict[str, Any]]

    def headers(self, now: int) -> dict[str, str]:
        """Who sends it and when. The id is the same for every try, so that the receiver knows a repetition."""
        return signatures.sign("standard", self.secret or "", self.body, now, f"msg_{self.id}")


@dataclass(frozen=True)
class Try:
    """What came of posting one: the status of the answer, or why there is none. `for_good`: so it would be again."""

    at: int
    status: int | None
    error: str | None
    duration_ms: int
    for_good: bool = False


@dataclass(frozen=True)
class Due:
    """One that may be taken, if nobody is faster."""

    id: str
    workspace_id: str
    next_at: int


def due(services: Services, random: Callable[[], float]) -> list[Due]:
    """Those whose time has come. Where there are very many, the longest due of some workspaces, others each time."""
    now = services.clock()
    beyond = _beyond(now)
    rows = _DUE.execute(now=now, beyond=beyond, most=_MOST).fetchall()
    if len(rows) == _MOST:
        # They may all be of one workspace, and hide those of another.
        waiting = sorted(_waiting_workspaces(), key=lambda _: random())[:_WORKSPACES]
        rows = [
            row for each in waiting
            for row in _DUE_OF_ONE.execute(now=now, beyond=beyond, workspace=each, most=_PER_LOOK).fetchall()
        ]  # fmt: skip
    return [Due(*row) for row in rows]


def _waiting_workspaces() -> list[str]:
    """Those with callbacks that are not over, by a walk from one to the next in their index."""
    rows = models.proxy.obj.execute_sql(
        "WITH RECURSIVE waiting (id) AS (SELECT MIN(workspace_id) FROM callback WHERE next_at IS NOT NULL UNION ALL"
        " SELECT (SELECT MIN(workspace_id) FROM callback WHERE next_at IS NOT NULL AND workspace_id > waiting.id)"
        " FROM waiting WHERE waiting.id IS NOT NULL) SELECT id FROM waiting WHERE id IS NOT NULL"
    )
    return [row[0] for row in rows.fetchall()]


def choose(line: Iterable[Due], room: int, under_way: Mapping[str, int]) -> list[Due]:
    """Up to `room` of these that go now, `PER_WORKSPACE` of a workspace together with those that are under way.

    Workspaces with the fewest under way come first.
    """
    places = Counter(under_way)
    ranked = []
    for each in line:
        places[each.workspace_id] += 1
        if places[each.workspace_id] <= PER_WORKSPACE:
            ranked.append((places[each.workspace_id], each.next_at, each.id, each))
    return [each for *_, each in sorted(ranked, key=lambda entry: entry[:3])][: max(0, room)]


def take(services: Services, wanted: Iterable[Due]) -> list[Taken]:
    """Take those of them that are due still. Nobody else is given the same ones before `LEASE_MS` are over."""
    now = services.clock()
    leased_until = now + LEASE_MS
    with transaction():
        # In the order of their ids, so that two workers wait for each other in one direction alone.
        ours = [
            each for each in sorted(each.id for each in wanted)
            if _LEASE.execute(id=each, leased_until=leased_until, now=now, beyond=_beyond(now)).rowcount
        ]  # fmt: skip
    loaded = _load(ours)
    if len(loaded) < len(ours):
        _forget_deleted(set(ours) - {row.id for row in loaded})
    return [_opened(services, row) for row in loaded]


def _forget_deleted(ids: Collection[str]) -> None:
    """Nobody is told of a deleted script, and its callbacks must not come before others' until all of it is gone."""
    deleted = Script.select(Script.uuid).where(Script.status == DELETED)
    with transaction():
        Callback.delete().where(Callback.id.in_(list(ids)), Callback.script.in_(deleted)).execute()


def _beyond(now: int) -> int:
    return now + LEASE_MS + _SKEW_MS


def _is_due() -> peewee.Expression:
    lease = Callback.leased_until
    free = lease.is_null() | (lease < place("now")) | (lease > place("beyond"))
    return (Callback.next_at <= place("now")) & free


def _due_query(*of: peewee.Expression) -> peewee.Query:
    return (
        Callback.select(Callback.id, Callback.workspace, Callback.next_at).where(_is_due(), *of)
        .order_by(Callback.next_at, Callback.id).limit(place("most"))
    )  # fmt: skip


_DUE = Compiled(_due_query)
_DUE_OF_ONE = Compiled(lambda: _due_query(Callback.workspace == place("workspace")))
_LEASE = Compiled(
    lambda: Callback.update(leased_until=place("leased_until")).where(Callback.id == place("id"), _is_due())
)


def _load(ids: Collection[str]) -> list[Callback]:
    """With all that is told and signed. Those of a deleted script are gone for everybody."""
    told = (
        Run.id, Run.status, Run.error, Run.error_code, Run.duration_ms, Run.summary, Run.created_at, Run.completed_at
    )  # fmt: skip
    signed = (Script.uuid, Script.slug, Script.workspace, Script.callback_secret, Workspace.id, Workspace.data_key)
    rows = Callback.select(Callback, *told, *signed).join(Run).switch(Callback).join(Script).join(Workspace)
    return list(rows.where(Callback.id.in_(list(ids)), Script.status != DELETED)) if ids else []


def _opened(services: Services, row: Callback) -> Taken:
    return Taken(
        id=row.id, workspace_id=row.workspace_id, url=row.url, body=_body(row), secret=_secret(services, row.script),
        leased_until=row.leased_until, deliveries=row.deliveries,
    )  # fmt: skip


def _secret(services: Services, script: Script) -> str | None:
    if script.callback_secret is None:
        return None
    try:
        return secrets.open_one(services, script, _SECRET, script.callback_secret)
    except vault.VaultError as error:
        # What it says of keys is the operator's, and no tenant's.
        log.error("a callback secret does not open: %s", error, extra={"script": script.slug})
        return None


def _body(row: Callback) -> bytes:
    """The same bytes for every try."""
    run = row.run
    word = _WORDS[run.status]
    data = {
        "run_id": run.id,
        "script_id": row.script.slug,
        "status": word,
        "error": run.error,
        "error_code": run.error_code,
        "duration_ms": run.duration_ms,
        "result_summary": run.summary,
        "created_at": logs.timestamp(run.created_at),
        "completed_at": logs.timestamp(run.completed_at),
    }
    whole = {"type": f"run.{word}", "timestamp": logs.timestamp(run.completed_at), "data": data}
    return json.dumps(whole, separators=(",", ":")).encode()


def settle(
    services: Services, ended: Sequence[tuple[Taken, Try]], random: Callable[[], float]
) -> None:
    """Record what came of posting these. One that somebody else has by now stays as it is."""
    now = services.clock()
    outcomes: Counter[str] = Counter()
    with transaction():
        for taken, tried in sorted(ended, key=lambda each: each[0].id):
            outcome, changes = _judge(taken, tried, now, random)
            if Callback.update(**changes, leased_until=None).where(_is_ours(taken)).execute():
                outcomes[outcome] += 1
    for outcome, count in outcomes.items():
        metrics.callbacks().labels(outcome=outcome).inc(count)


def _is_ours(taken: Taken) -> peewee.Expression:
    # A lease is only ever followed by another time: this one names whoever took it.
    return (Callback.id == taken.id) & (Callback.leased_until == taken.leased_until)


def _judge(taken: Taken, tried: Try, now: int, random: Callable[[], float]) -> tuple[str, dict[str, Any]]:
    """The outcome, and what changes."""
    number = _tries(taken.deliveries) + 1
    shown = {"at": tried.at, "status": tried.status, "error": tried.error, "duration_ms": tried.duration_ms}
    deliveries = [*taken.deliveries, {**shown, "try": number}][-MAX_DELIVERIES:]
    if tried.error is None:
        return DELIVERED, {"status": DELIVERED, "next_at": None, "deliveries": deliveries}
    if tried.for_good or number > len(DELAYS_S):
        return GIVEN_UP, {"status": GIVEN_UP, "next_at": None, "deliveries": deliveries}
    delay_ms = round(DELAYS_S[number - 1] * (1 + JITTER * random()) * 1000)
    return RETRIED, {"next_at": now + delay_ms, "deliveries": deliveries}


def _tries(deliveries: Sequence[Mapping[str, Any]]) -> int:
    """How many there were since it became due, or was asked for again. Those of an earlier round have no number."""
    return int(deliveries[-1].get("try", 0)) if deliveries else 0


def release(taken: Sequence[Taken]) -> None:
    """Leave these, of whose posting nothing is known, to whoever looks next."""
    with transaction():
        for each in sorted(taken, key=lambda each: each.id):
            Callback.update(leased_until=None).where(_is_ours(each)).execute()


# For people


def of(run: Run) -> Callback:
    """The callback of a run, or NotFound."""
    found: Callback | None = Callback.get_or_none(Callback.run == run.id)
    if found is None:
        raise NotFound(f"Run '{run.id}' has no callback: it is not over, or nobody gave an address.")
    return found


def redeliver(services: Services, run: Run) -> Callback:
    """Send it again to the same address, with all tries anew. Raises NotFound, and Conflict while it is pending."""
    callback = of(run)
    earlier = [{name: value for name, value in each.items() if name != "try"} for each in callback.deliveries]
    again = Callback.update(status=PENDING, next_at=services.clock(), leased_until=None, deliveries=earlier)
    if not again.where(Callback.id == callback.id, Callback.status != PENDING).execute():
        raise Conflict(f"The callback of run '{run.id}' is pending already.")
    return of(run)
