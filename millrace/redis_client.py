"""The one place that makes Redis clients, since the library's defaults break calls that wait.

redis-py 8 gives every socket 5 s and ten silent retries: a BLPOP or XREAD that waits longer would fail
after a minute, and a retried one may lose an item.
"""

from redis import Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


def connect(url: str, *, text: bool = True) -> Redis:
    """A client for short commands: answers or fails within about 3 s; reconnects once by itself.

    Answers come as text, or as bytes where `text` is False.
    """
    return Redis.from_url(
        url,
        decode_responses=text,
        socket_timeout=3,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1, supported_errors=(RedisConnectionError,)),
    )


def connect_once(url: str, answer_s: float) -> Redis:
    """A client for commands that must not be done twice, such as an addition: answers, as bytes, or fails within about
    twice `answer_s`, and tries nothing again."""
    return Redis.from_url(
        url,
        socket_timeout=answer_s,
        socket_connect_timeout=answer_s,
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )


def connect_blocking(url: str, longest_s: float | None = None) -> Redis:
    """A client for commands that wait (XREADGROUP BLOCK, pub/sub): no retry.

    With `longest_s`, the longest that a command may wait, a server that says nothing for 3 s more is taken
    for lost; without, the socket has no timeout.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=None if longest_s is None else longest_s + 3,
        socket_keepalive=True,
        socket_connect_timeout=2,
        health_check_interval=0,
        retry=Retry(ExponentialBackoff(), 0),
    )
