"""The one place that picks implementations."""

from collections.abc import Iterable
from dataclasses import dataclass

import dramatiq

from millrace import database, ids
from millrace.bus import RedisBus
from millrace.cache import RedisCache
from millrace.dispatch import RedisQueue, WakingBroker
from millrace.objects import S3Objects
from millrace.services import Services
from millrace.settings import SettingError, Settings
from millrace.vault import Keyring, VaultError


def build(
    settings: Settings, *, middleware: Iterable[dramatiq.Middleware] = (), max_connections: int = 40
) -> "Wired":
    """The real services for these settings; connections open when first used. Raises SettingError."""
    if not settings.redis_url:
        raise SettingError("REDIS_URL is not set: `millrace up` starts an embedded server, other processes need it.")
    if not settings.s3_endpoint:
        raise SettingError("S3_ENDPOINT is not set: `millrace up` starts an embedded server, other processes need it.")
    broker = WakingBroker(settings.redis_url, middleware=middleware)
    bus = RedisBus(settings.redis_url)
    services = Services(
        settings=settings,
        database=database.connect(settings.database_url, max_connections=max_connections),
        objects=S3Objects.from_settings(settings),
        queue=RedisQueue(broker),
        bus=bus,
        cache=RedisCache(settings.redis_url),
        keyring=_keyring(settings),
        clock=ids.now_ms,
        new_id=ids.new_id,
    )
    return Wired(services, broker, bus)


def _keyring(settings: Settings) -> Keyring:
    if not settings.secret_keys:
        raise SettingError("MILLRACE_SECRET_KEYS is not set: `millrace up` generates one, other processes need it.")
    try:
        return Keyring.parse(settings.secret_keys)
    except VaultError as error:
        raise SettingError(f"{error}.") from None


@dataclass(frozen=True)
class Wired:
    """The services, and what has to be closed with them."""

    services: Services
    broker: WakingBroker
    bus: RedisBus

    def close(self) -> None:
        """Close every connection; the process may end or build anew."""
        self.broker.close()
        self.bus.close()
        self.services.cache.close()
        self.services.database.close_all()  # type: ignore[attr-defined]  # a pool's method, and ours is always a pool
