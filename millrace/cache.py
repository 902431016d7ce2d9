"""The cache that scripts share with their own later runs: JSON values by key, with or without an end.

Each script sees its own keys alone. What all scripts of a workspace keep has one bound, so that no tenant fills the
Redis that everybody's queue is in. It is a cache: emptied at any moment it is empty, and nothing else breaks.
"""

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import redis

from millrace import jsontext, redis_client
from millrace.errors import Invalid, TooLarge, Unavailable, shorten

MAX_KEY_CHARS = 256
MAX_VALUE_BYTES = 64 * 1024
MAX_DEPTH = 100
MAX_TTL_S = 31_536_000  # a year
MAX_BYTES = 16 * 1024 * 1024  # of keys and values of a workspace together
MAX_KEYS = 10_000

_ANSWER_S = 1.0  # the longest that a run waits for Redis; its log and its time limit wait as long
_PAUSE_S = 1.0  # so long nobody is made to wait again after Redis did not answer
_AT_ONCE = 500
_INT64 = 2**63
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Namespace(NamedTuple):
    """Whose keys: a script's (its uuid) in its workspace."""

    workspace: str
    script: str


class Full(TooLarge):
    """The workspace's cache has no room for this."""


class Cache(Protocol):
    """What every implementation promises.

    A key is 1 to 256 characters, none of them a control character; a value is JSON of at most 64 KiB; a time to live
    is whole seconds, up to a year, or None: kept for good. Whatever breaks this raises Invalid or TooLarge, a write for
    which the workspace has no room raises Full, and a cache that is away raises Unavailable.
    """

    def get(self, namespace: Namespace, key: str) -> Any:
        """The value, or None."""

    def exists(self, namespace: Namespace, key: str) -> bool:
        """Whether there is a value, be it null."""

    def set(self, namespace: Namespace, key: str, value: Any, ttl_s: int | None = None) -> None:
        """Keep the value so long, in place of an earlier one and its time to live."""

    def increment(self, namespace: Namespace, key: str, delta: int = 1) -> int:
        """Add to a whole number, 0 if there is none, and return it; nobody else's addition is lost. Its time to live
        stays. Raises Invalid for another value, and for a result beyond 64 bits, which changes nothing."""

    def expire(self, namespace: Namespace, key: str, ttl_s: int) -> bool:
        """Keep what there is so long from now. Returns whether there is something."""

    def delete(self, namespace: Namespace, key: str) -> bool:
        """Returns whether there was something."""

    def forget(self, workspace: str, script: str | None = None) -> None:
        """Delete everything of a script, or of a whole workspace."""

    def close(self) -> None:
        """Close every connection."""


def _checked(namespace: Namespace, key: object) -> str:
    """The key with its script's, as it stands in a workspace's index."""
    if not isinstance(key, str):
        raise Invalid("A cache key must be text.", field="key", value=key)
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise Invalid(f"A cache key has 1 to {MAX_KEY_CHARS} characters; this one has {len(key)}.", field="key")
    if _CONTROL.search(key):
        raise Invalid("A cache key has no control characters.", field="key", value=key)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise Invalid("A cache key must be valid Unicode.", field="key", value=key) from None
    return f"{namespace.script}:{key}"


def _check_ttl(ttl_s: object) -> None:
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int) or not 1 <= ttl_s <= MAX_TTL_S:
        given = json.dumps(shorten(ttl_s))[:100]
        raise Invalid(f"A time to live is whole seconds from 1 to {MAX_TTL_S}, not {given}.", field="ttl")


def _check_delta(delta: object) -> None:
    if isinstance(delta, bool) or not isinstance(delta, int) or not -_INT64 <= delta < _INT64:
        raise Invalid("What is added must be a whole number of 64 bits.", field="delta")


def _text(value: Any) -> bytes:
    if jsontext.is_deeper(value, MAX_DEPTH):
        raise Invalid(f"A cached value is nested at most {MAX_DEPTH} deep.", field="value")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise Invalid(f"A cached value must be JSON: {error}.", field="value") from None
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_VALUE_BYTES:
        raise TooLarge(f"A cached value is at most {MAX_VALUE_BYTES} bytes of JSON; this one is {len(data)}.")
    return data


def _value(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Quota:
    """What the scripts of a workspace may keep together."""

    max_bytes: int = MAX_BYTES
    max_keys: int = MAX_KEYS

    def full(self) -> Full:
        """The error that says so."""
        return Full(
            f"The cache of this workspace is full: it holds at most {self.max_bytes / 2**20:g} MiB "
            f"and {self.max_keys:,} keys."
        )


def _not_whole(key: str) -> Invalid:
    return Invalid(f"What is cached under '{shorten(key)}' is not a whole number of 64 bits.", field="key")


def _overflow(key: str) -> Invalid:
    return Invalid(f"The number under '{shorten(key)}' would not fit into 64 bits.", field="delta")


# In memory


class MemoryCache:
    """The cache within one process."""

    def __init__(self, clock: Callable[[], int], quota: Quota | None = None) -> None:
        self._clock = clock  # milliseconds
        self._quota = quota or Quota()
        self._lock = threading.Lock()
        # By workspace, then by script and key: the text, and when it ends.
        self._kept: defaultdict[str, dict[str, tuple[bytes, int | None]]] = defaultdict(dict)

    def get(self, namespace: Namespace, key: str) -> Any:
        member = _checked(namespace, key)
        with self._lock:
            found = self._live(namespace).get(member)
        return None if found is None else _value(found[0])

    def exists(self, namespace: Namespace, key: str) -> bool:
        member = _checked(namespace, key)
        with self._lock:
            return member in self._live(namespace)

    def set(self, namespace: Namespace, key: str, value: Any, ttl_s: int | None = None) -> None:
        member, text = _checked(namespace, key), _text(value)
        if ttl_s is not None:
            _check_ttl(ttl_s)
        with self._lock:
            self._put(namespace, member, text, None if ttl_s is None else self._clock() + ttl_s * 1000)

    def increment(self, namespace: Namespace, key: str, delta: int = 1) -> int:
        member = _checked(namespace, key)
        _check_delta(delta)
        with self._lock:
            text, due = self._live(namespace).get(member, (b"0", None))
            if not _WHOLE.fullmatch(text.decode("latin-1")) or not -_INT64 <= int(text) < _INT64:
                raise _not_whole(key)
            number = int(text) + delta
            if not -_INT64 <= number < _INT64:
                raise _overflow(key)
            self._put(namespace, member, str(number).encode(), due)
        return number

    def expire(self, namespace: Namespace, key: str, ttl_s: int) -> bool:
        member = _checked(namespace, key)
        _check_ttl(ttl_s)
        with self._lock:
            items = self._live(namespace)
            if member not in items:
                return False
            items[member] = (items[member][0], self._clock() + ttl_s * 1000)
            return True

    def delete(self, namespace: Namespace, key: str) -> bool:
        member = _checked(namespace, key)
        with self._lock:
            return self._live(namespace).pop(member, None) is not None

    def forget(self, workspace: str, script: str | None = None) -> None:
        with self._lock:
            items = self._kept[workspace]
            for member in [each for each in items if script is None or each.startswith(f"{script}:")]:
                del items[member]

    def close(self) -> None:
        """Nothing to close."""

    def _live(self, namespace: Namespace) -> dict[str, tuple[bytes, int | None]]:
        items, now = self._kept[namespace.workspace], self._clock()
        for member in [each for each, (_, due) in items.items() if due is not None and due <= now]:
            del items[member]
        return items

    def _put(self, namespace: Namespace, member: str, text: bytes, due: int | None) -> None:
        items = self._live(namespace)
        others = [_size(each, kept[0], namespace) for each, kept in items.items() if each != member]
        used = sum(others) + _size(member, text, namespace)
        if len(others) >= self._quota.max_keys or used > self._quota.max_bytes:
            raise self._quota.full()
        items[member] = (text, due)


def _size(member: str, text: bytes, namespace: Namespace) -> int:
    return len(member.encode()) - len(namespace.script) - 1 + len(text)


# In Redis
#
# Keys:
#   tenant:<workspace>:script:<script>:<key>   the value's JSON text, with Redis's own time to live
#   millrace:cache:<workspace>:due             sorted set, the index: <script>:<key> by when it ends (or inf)
#   millrace:cache:<workspace>:sizes           hash of the same to bytes of key and value; under "" their sum
#
# Every write is one run of this script, so that values, index and sum change together. What has ended is forgotten a
# few at a time with each write, and as many as it takes before a write is refused. If values are gone that the index
# still tells of (evicted, or deleted by hand), a few entries are looked at before a write is refused. The names of
# values in the index are made here, not declared: this is for one Redis, not for a cluster of them.
_SCRIPT = """
local value, due, sizes = KEYS[1], KEYS[2], KEYS[3]
local operation, folder, member, key_bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local max_bytes, max_keys = tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function whole(number) return string.format('%.0f', number) end
local function size_of(each) return tonumber(redis.call('HGET', sizes, each) or '0') end

local function forget(members)
    if #members == 0 then return end
    local bytes = 0
    for _, size in ipairs(redis.call('HMGET', sizes, unpack(members))) do bytes = bytes + (tonumber(size) or 0) end
    redis.call('ZREM', due, unpack(members))
    redis.call('HDEL', sizes, unpack(members))
    redis.call('HINCRBY', sizes, '', whole(0 - bytes))  -- not -bytes: Redis takes no -0
end

local function forget_ended(limit)
    local ended = redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, limit)
    forget(ended)
    return #ended > 0
end

local function forget_some_lost()
    local lost = {}
    for _, each in ipairs(redis.call('ZRANDMEMBER', due, 20)) do
        if redis.call('EXISTS', folder .. each) == 0 then lost[#lost + 1] = each end
    end
    forget(lost)
    return #lost > 0
end

local function fits(bytes)
    local keys = redis.call('ZCARD', due)
    if not redis.call('ZSCORE', due, member) then keys = keys + 1 end
    return keys <= max_keys and size_of('') - size_of(member) + bytes <= max_bytes
end

local function make_room(bytes)
    while not fits(bytes) do
        if not forget_ended(100) and not forget_some_lost() then return false end
    end
    return true
end

local function count(bytes)
    local left = redis.call('PTTL', value)
    redis.call('ZADD', due, left < 0 and '+inf' or whole(now + left), member)
    redis.call('HINCRBY', sizes, '', whole(bytes - size_of(member)))
    redis.call('HSET', sizes, member, whole(bytes))
end

-- Of a workspace without values nothing stays: an index ends a second after the last of its values does.
local function tidy()
    local last = redis.call('ZRANGE', due, -1, -1, 'WITHSCORES')
    if #last == 0 then
        redis.call('DEL', sizes)
    else
        for _, each in ipairs({due, sizes}) do
            if last[2] == 'inf' then
                redis.call('PERSIST', each)
            else
                redis.call('PEXPIREAT', each, whole(tonumber(last[2]) + 1000))
            end
        end
    end
end

local operations = {}

function operations.set(text, ttl)
    if not make_room(key_bytes + #text) then return 'full' end
    if ttl == '' then redis.call('SET', value, text) else redis.call('SET', value, text, 'EX', ttl) end
    count(key_bytes + #text)
    return 'done'
end

function operations.increment(delta)
    local before = redis.call('GET', value)
    local answer = redis.pcall('INCRBY', value, delta)
    if type(answer) == 'table' then
        if string.find(answer.err, 'not an integer') then return 'not whole' end
        if string.find(answer.err, 'overflow') then return 'overflow' end
        return answer
    end
    local number = redis.call('GET', value)  -- Lua's own numbers end at 53 bits
    if not make_room(key_bytes + #number) then
        if before then redis.call('SET', value, before, 'KEEPTTL') else redis.call('DEL', value) end
        return 'full'
    end
    count(key_bytes + #number)
    return number
end

function operations.expire(ttl)
    if redis.call('EXPIRE', value, ttl) == 0 then
        forget({member})
        return 'none'
    end
    count(key_bytes + redis.call('STRLEN', value))
    return 'done'
end

function operations.delete()
    local had = redis.call('UNLINK', value)
    forget({member})
    return had == 1 and 'done' or 'none'
end

function operations.drop(...)
    for _, each in ipairs({...}) do redis.call('UNLINK', folder .. each) end
    forget({...})
    return 'done'
end

-- Sizes without an index are of nothing that is known.
if redis.call('EXISTS', due) == 0 then redis.call('DEL', sizes) end
forget_ended(20)
local answer = operations[operation](unpack(ARGV, 7))
tidy()
return answer
"""


class RedisCache:
    """The cache in Redis 6.2 or newer, or Valkey."""

    def __init__(self, url: str, quota: Quota | None = None) -> None:
        self._quota = quota or Quota()
        self._client = redis_client.connect_once(url, _ANSWER_S)
        self._script = self._client.register_script(_SCRIPT)
        self._away_until = 0.0

    def get(self, namespace: Namespace, key: str) -> Any:
        name = _folder(namespace.workspace) + _checked(namespace, key)
        found = self._ask(lambda: self._client.get(name))
        try:
            return None if found is None else _value(found)
        except ValueError as error:
            raise Unavailable(f"what Redis has under '{name}' is not the cache's: {error}") from error

    def exists(self, namespace: Namespace, key: str) -> bool:
        name = _folder(namespace.workspace) + _checked(namespace, key)
        return bool(self._ask(lambda: self._client.exists(name)))

    def set(self, namespace: Namespace, key: str, value: Any, ttl_s: int | None = None) -> None:
        if ttl_s is not None:
            _check_ttl(ttl_s)
        self._write(namespace, key, "set", _text(value), "" if ttl_s is None else ttl_s)

    def increment(self, namespace: Namespace, key: str, delta: int = 1) -> int:
        _check_delta(delta)
        answer = self._write(namespace, key, "increment", delta)
        if answer == b"not whole":
            raise _not_whole(key)
        if answer == b"overflow":
            raise _overflow(key)
        return int(answer)

    def expire(self, namespace: Namespace, key: str, ttl_s: int) -> bool:
        _check_ttl(ttl_s)
        return self._write(namespace, key, "expire", ttl_s) == b"done"

    def delete(self, namespace: Namespace, key: str) -> bool:
        return self._write(namespace, key, "delete") == b"done"

    def forget(self, workspace: str, script: str | None = None) -> None:
        cursor, begun = 0, False
        while cursor or not begun:
            begun = True
            cursor, members = self._look(workspace, script, cursor)
            for start in range(0, len(members), _AT_ONCE):
                self._run(workspace, "", 0, "drop", *members[start : start + _AT_ONCE])

    def _look(self, workspace: str, script: str | None, cursor: int) -> tuple[int, list[bytes]]:
        due, pattern = _index(workspace)[0], None if script is None else f"{script}:*"
        cursor, found = self._ask(lambda: self._client.zscan(due, cursor, pattern, _AT_ONCE))
        return cursor, [member for member, _ in found]

    def close(self) -> None:
        self._client.close()

    def _write(self, namespace: Namespace, key: str, operation: str, *arguments: bytes | str | int) -> bytes:
        member = _checked(namespace, key)
        answer = self._run(namespace.workspace, member, len(key.encode()), operation, *arguments)
        if answer == b"full":
            raise self._quota.full()
        return answer

    def _run(
        self, workspace: str, member: str, key_bytes: int, operation: str, *arguments: bytes | str | int
    ) -> bytes:
        folder, quota = _folder(workspace), self._quota
        keys = [folder + member, *_index(workspace)]
        given = [operation, folder, member, key_bytes, quota.max_bytes, quota.max_keys, *arguments]
        answer: bytes = self._ask(lambda: self._script(keys=keys, args=given))
        return answer

    def _ask(self, command: Callable[[], Any]) -> Any:
        # Whoever waits for a Redis that is away holds up a run: one at a time is enough to find out that it is back.
        if time.monotonic() < self._away_until:
            raise Unavailable("Redis did not answer the cache a moment ago")
        try:
            return command()
        except redis.RedisError as error:
            if isinstance(error, redis.ConnectionError | redis.TimeoutError):
                self._away_until = time.monotonic() + _PAUSE_S
            raise Unavailable(f"Redis does not answer the cache: {error}") from error


def _folder(workspace: str) -> str:
    return f"tenant:{workspace}:script:"


def _index(workspace: str) -> tuple[str, str]:
    return f"millrace:cache:{workspace}:due", f"millrace:cache:{workspace}:sizes"
