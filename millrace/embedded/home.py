"""A home's own servers and keys: which ones it needs, and settings that name them."""

import dataclasses

from millrace import processes, vault
from millrace.embedded.s3 import S3Server
from millrace.embedded.server import Server
from millrace.embedded.valkey import ValkeyServer
from millrace.settings import SettingError, Settings

KEYS_FILE = "secret_keys"


def needed(settings: Settings) -> list[Server]:
    """The servers that no setting points elsewhere, not started."""
    servers: list[Server] = []
    if not settings.redis_url:
        servers.append(ValkeyServer(settings.home / "valkey"))
    if not settings.s3_endpoint:
        servers.append(S3Server(settings.home / "s3"))
    return servers


def attach(settings: Settings) -> Settings:
    """The settings, completed with this home's servers and keys as they were last started.

    What was never started stays empty.
    """
    keys = settings.home / KEYS_FILE
    if not settings.secret_keys and keys.exists():
        settings = dataclasses.replace(settings, secret_keys=keys.read_text(encoding="utf-8").strip())
    for server in needed(settings):
        if not server.recall():
            continue
        if isinstance(server, ValkeyServer):
            settings = dataclasses.replace(settings, redis_url=server.url)
        if isinstance(server, S3Server):
            settings = dataclasses.replace(
                settings, s3_endpoint=server.endpoint,
                s3_access_key=server.access_key, s3_secret_key=server.secret_key,
            )  # fmt: skip
    return settings


def ensure_keys(settings: Settings, *, first_start: bool) -> None:
    """Generate the master key of this home's secrets, unless a setting or the home has one.

    Raises SettingError when the home had one and lost it: a new one would open nothing.
    """
    path = settings.home / KEYS_FILE
    if settings.secret_keys or path.exists():
        return
    if not first_start:
        raise SettingError(
            f"MILLRACE_SECRET_KEYS is not set and {path} is gone: nothing else opens the stored secrets."
        )
    processes.write_private(path, vault.new_master_key() + "\n")


def environment(settings: Settings) -> dict[str, str]:
    """What other processes need in their environment to have the same settings as attached ones."""
    variables = {
        "MILLRACE_HOME": str(settings.home),
        "REDIS_URL": settings.redis_url,
        "S3_ENDPOINT": settings.s3_endpoint,
        "S3_ACCESS_KEY": settings.s3_access_key,
        "S3_SECRET_KEY": settings.s3_secret_key,
    }
    keys = settings.home / KEYS_FILE
    if keys.exists() and settings.secret_keys == keys.read_text(encoding="utf-8").strip():
        variables["MILLRACE_SECRET_KEYS_FILE"] = str(keys)
    return variables
