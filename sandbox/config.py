"""Settings of the sandbox, read from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from sandbox.egress.group import Limits
from sandbox.egress.policy import Exemption

Mode = Literal["strict", "permissive"]

EGRESS_LIMITS = Limits(connections=1_000, rate=6_000, mb_per_hour=10 * 1024)
"""What each group of scripts may use of the way out, unless a setting says otherwise: far above honest use, and below
what takes the way out from the others. One run may have 64 connections and move 1 GB, so these are a dozen runs at
their own limits. A closed connection keeps one of the host's 28,000 local ports for a minute: 6,000 a minute leave
more than three quarters of them to everybody else."""


class ConfigError(ValueError):
    """A setting is wrong; the message names it and the rule."""


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    home: Path
    mode: Mode = "strict"
    warm_jails: int = 2
    egress_allow: tuple[str, ...] = ()
    """Private `host:port`, hosts or CIDR blocks that scripts may reach."""
    egress_limits: Limits = EGRESS_LIMITS
    """What each group of scripts may use of the way out, all of its jails on this host together."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> SandboxConfig:
        """Read MILLRACE_HOME, MILLRACE_SANDBOX_MODE, MILLRACE_WARM_JAILS, MILLRACE_EGRESS_ALLOW and the limits
        MILLRACE_EGRESS_CONNECTIONS, MILLRACE_EGRESS_RATE and MILLRACE_EGRESS_MB_PER_HOUR.

        Each may also stand in a file that NAME_FILE names; an empty one means the default. Raises ConfigError.
        """
        read = _Reader(environ)
        mode = read.text("MILLRACE_SANDBOX_MODE") or "strict"
        if mode not in ("strict", "permissive"):
            raise ConfigError(f"MILLRACE_SANDBOX_MODE is {mode!r}, but must be strict or permissive")
        return cls(
            home=Path(read.text("MILLRACE_HOME") or "./var").absolute(),
            mode=cast(Mode, mode),
            warm_jails=read.number("MILLRACE_WARM_JAILS", max(2, 2 * len(os.sched_getaffinity(0))), 1_000),
            egress_allow=_egress_allow(read.text("MILLRACE_EGRESS_ALLOW")),
            egress_limits=Limits(
                connections=read.number("MILLRACE_EGRESS_CONNECTIONS", EGRESS_LIMITS.connections, 1_000_000),
                rate=read.number("MILLRACE_EGRESS_RATE", EGRESS_LIMITS.rate, 1_000_000),
                mb_per_hour=read.number("MILLRACE_EGRESS_MB_PER_HOUR", EGRESS_LIMITS.mb_per_hour, 100_000_000),
            ),
        )

    @property
    def socket_path(self) -> Path:
        """Where the launcher listens."""
        return self.home / "run" / "launcher.sock"


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str:
        path = self._environ.get(f"{name}_FILE")
        if not path:
            return self._environ.get(name, "").strip()
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}_FILE names {path!r}, which cannot be read: {error}") from error

    def number(self, name: str, default: int, most: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > most:
            raise ConfigError(f"{name} is {text!r}, but must be a whole number from 0 to {most}")
        return int(text)


def _egress_allow(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in parts:
        try:
            Exemption.parse(part)
        except ValueError as error:
            raise ConfigError(
                f"MILLRACE_EGRESS_ALLOW has a wrong part, {error}; each must be a host, *.host, an address or a"
                " network, with or without :port"
            ) from error
    return parts
