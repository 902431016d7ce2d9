"""Settings: read once from the environment, checked, frozen; secrets do not show when printed.

Every setting may also come from a file: `NAME_FILE` names it, as container secrets do.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from redis.connection import parse_url as parse_redis_url


class SettingError(Exception):
    """A setting has a wrong value; the message is one sentence that names it."""


@dataclass(frozen=True)
class Settings:
    """What an operator may choose. Empty `redis_url` or `s3_endpoint` means: embedded, not started yet.

    With `metrics_port` 0 only web shows metrics. `data_sources` has a folder of SQLite files for each workspace.
    """

    home: Path
    data_sources: Path
    host: str
    port: int
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    s3_endpoint: str
    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    s3_bucket: str
    s3_region: str
    s3_public_endpoint: str
    secret_keys: str = field(repr=False)
    worker_processes: int
    worker_threads: int
    web_threads: int
    sandbox_mode: str
    run_log_mb: int
    log_level: str
    public_url: str
    trusted_proxies: int
    metrics_host: str
    metrics_port: int
    oidc_issuer: str
    oidc_client_id: str
    oidc_client_secret: str = field(repr=False)
    oidc_name: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read and check. Raises `SettingError` for the first wrong value."""
        read = _Reader(os.environ if environ is None else environ)
        home = Path(read.text("MILLRACE_HOME", "var")).absolute()
        host = read.text("MILLRACE_HOST", "127.0.0.1")
        port = read.number("MILLRACE_PORT", 8080, 1, 65535)
        cores = os.cpu_count() or 1
        issuer, client_id, client_secret, oidc_name = read.oidc("MILLRACE_OIDC_")
        return cls(
            home=home,
            data_sources=Path(read.text("MILLRACE_DATA_SOURCES", f"{home}/data-sources")).absolute(),
            host=host,
            port=port,
            database_url=read.database("DATABASE_URL", f"sqlite:///{home}/millrace.db"),
            redis_url=read.redis("REDIS_URL", ""),
            s3_endpoint=read.url("S3_ENDPOINT", "", ("http", "https")),
            s3_access_key=read.text("S3_ACCESS_KEY", ""),
            s3_secret_key=read.text("S3_SECRET_KEY", ""),
            s3_bucket=read.text("S3_BUCKET", "millrace"),
            s3_region=read.text("S3_REGION", "us-east-1"),
            s3_public_endpoint=read.url("S3_PUBLIC_ENDPOINT", "", ("http", "https")),
            secret_keys=read.text("MILLRACE_SECRET_KEYS", ""),
            worker_processes=read.number("MILLRACE_WORKER_PROCESSES", max(1, cores // 2), 1, 256),
            worker_threads=read.number("MILLRACE_WORKER_THREADS", 8, 1, 256),
            web_threads=read.number("MILLRACE_WEB_THREADS", 256, 2, 4096),
            sandbox_mode=read.choice("MILLRACE_SANDBOX_MODE", "strict", ("strict", "permissive")),
            run_log_mb=read.number("MILLRACE_RUN_LOG_MB", 100, 1, 1024),
            log_level=read.choice("MILLRACE_LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
            public_url=read.url("MILLRACE_PUBLIC_URL", "", ("http", "https")).rstrip("/"),
            trusted_proxies=read.number("MILLRACE_TRUSTED_PROXIES", 0, 0, 10),
            metrics_host=read.text("MILLRACE_METRICS_HOST", "127.0.0.1"),
            metrics_port=read.number("MILLRACE_METRICS_PORT", 0, 0, 65535),
            oidc_issuer=issuer,
            oidc_client_id=client_id,
            oidc_client_secret=client_secret,
            oidc_name=oidc_name,
        )

    @property
    def url(self) -> str:
        """Where people reach the web process."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return self.public_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_SQLITE_FILE = re.compile(r"sqlite:///.*[^/]$")


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def text(self, name: str, default: str) -> str:
        if path := self.environ.get(f"{name}_FILE"):
            try:
                return Path(path).read_text(encoding="utf-8").strip() or default
            except (OSError, UnicodeDecodeError) as error:
                raise SettingError(f"{name}_FILE names {path!r}, which cannot be read: {error}.") from error
        return self.environ.get(name, "").strip() or default

    def number(self, name: str, default: int, low: int, high: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10) or not low <= int(text) <= high:
            raise SettingError(f"{name} is {text!r} but must be a whole number from {low} to {high}.")
        return int(text)

    def choice(self, name: str, default: str, options: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if text not in options:
            raise SettingError(f"{name} is {text!r} but must be one of: {', '.join(options)}.")
        return text

    def url(self, name: str, default: str, schemes: tuple[str, ...]) -> str:
        text = self.text(name, default)
        if not text:
            return text
        # The value itself may hold a password, so no more than its scheme is repeated.
        scheme = _SCHEME.match(text)
        if scheme is None or scheme[1] not in schemes:
            found = f"has the scheme {scheme[1]!r}" if scheme else "has no scheme"
            raise SettingError(f"{name} {found} but must start with one of: "
                               f"{', '.join(f'{each}://' for each in schemes)}.")
        try:
            _ = urlsplit(text).port
        except ValueError:
            raise SettingError(f"{name} must be a URL whose host and port can be read; "
                               "special characters of a password are written as %XX.") from None
        return text

    def database(self, name: str, default: str) -> str:
        text = self.url(name, default, ("sqlite", "postgresql", "postgres"))
        if text.startswith("sqlite:") and not _SQLITE_FILE.match(text):
            raise SettingError(f"{name} is {text!r} but must name a file: sqlite:///relative or sqlite:////absolute.")
        if text.startswith("postgres") and not urlsplit(text).path.strip("/"):
            raise SettingError(f"{name} must name a database, as in postgresql://user:password@host:5432/name.")
        return text

    def oidc(self, prefix: str) -> tuple[str, str, str, str]:
        """Who else vouches for people: issuer, our id and secret there, and what the button says; or four blanks."""
        names = [f"{prefix}{name}" for name in ("ISSUER", "CLIENT_ID", "CLIENT_SECRET", "NAME")]
        issuer, client_id, client_secret, name = (self.text(each, "") for each in names)
        missing = [each for each, value in zip(names, (issuer, client_id, client_secret), strict=False) if not value]
        if len(missing) == 3 and not name:
            return "", "", "", ""
        if missing:
            raise SettingError(f"{missing[0]} is not set: single sign-on needs {', '.join(names[:3])}.")
        issuer = self.url(names[0], "", ("http", "https"))
        if issuer.startswith("http:") and urlsplit(issuer).hostname not in ("localhost", "127.0.0.1", "::1"):
            raise SettingError(f"{names[0]} must start with https://, unless it is on this machine.")
        if urlsplit(issuer).query or urlsplit(issuer).fragment:
            raise SettingError(f"{names[0]} must have no query and no fragment.")
        return issuer, client_id, client_secret, name or urlsplit(issuer).hostname or issuer

    def redis(self, name: str, default: str) -> str:
        text = self.url(name, default, ("redis", "rediss", "unix"))
        try:
            if text:
                parse_redis_url(text)
        except ValueError as error:
            raise SettingError(f"{name} has an option that cannot be read: {str(error).rstrip('.')}.") from None
        return text
