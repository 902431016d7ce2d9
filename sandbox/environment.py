"""The part of the environment that the sandbox's processes keep: no credential of the platform is in it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

_NAMES = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
_PREFIXES = ("PYTHON", "LC_")


def needed(environ: Mapping[str, str]) -> dict[str, str]:
    """What an interpreter needs to start and to find its modules. A list of what may stay, since secrets have
    names that nobody here knows."""
    return {name: value for name, value in environ.items() if name in _NAMES or name.startswith(_PREFIXES)}


def drop_the_rest(environ: MutableMapping[str, str]) -> None:
    """Remove all but `needed` from `environ` itself."""
    for name in set(environ) - set(needed(environ)):
        del environ[name]
