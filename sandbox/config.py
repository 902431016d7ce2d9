"""Settings of the sandbox, read from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from sandbox.egress.policy import Exemption

Mode = Literal["strict", "permissive"]


class ConfigError(ValueError):
    """A setting is wrong; the message names it and the rule."""


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    home: Path
    mode: Mode = "strict"
    warm_jails: int = 2
    egress_allow: tuple[str, ...] = ()
    """Private `host:port`, hosts or CIDR blocks that scripts may reach."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> SandboxConfig:
        """Read MILLRACE_HOME, MILLRACE_SANDBOX_MODE, MILLRACE_WARM_JAILS and MILLRACE_EGRESS_ALLOW.

        Each may also stand in a file that NAME_FILE names; an empty one means the default. Raises ConfigError.
        """
        read = _Reader(environ)
        mode = read.text("MILLRACE_SANDBOX_MODE") or "strict"
        if mode not in ("strict", "permissive"):
            raise ConfigError(f"MILLRACE_SANDBOX_MODE is {mode!r}, but must be strict or permissive")
        return cls(
            home=Path(read.text("MILLRACE_HOME") or "./var").absolute(),
            mode=cast(Mode, mode),
            warm_jails=_warm_jails(read.text("MILLRACE_WARM_JAILS")),
            egress_allow=_egress_allow(read.text("MILLRACE_EGRESS_ALLOW")),
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


def _warm_jails(text: str) -> int:
    if not text:
        return max(2, 2 * len(os.sched_getaffinity(0)))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > 1000:
        raise ConfigError(f"MILLRACE_WARM_JAILS is {text!r}, but must be a whole number from 0 to 1000")
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
