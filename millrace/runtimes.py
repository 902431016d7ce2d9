"""Which language runtimes there are: written by the workers, which have them; read by everybody else."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from millrace.database import transaction
from millrace.errors import Invalid, NotFound, NotReady
from millrace.models import Runtime
from millrace.services import Services

FORGOTTEN_AFTER_MS = 10 * 60 * 1000
_NAME = re.compile(r"[a-z0-9.]{1,30}")


@dataclass(frozen=True)
class Library:
    """A package that scripts can load without uploading it."""

    name: str
    version: str


@dataclass(frozen=True)
class Offer:
    """What a worker says of a runtime: its name and version, the libraries, the language's own allowed modules."""

    name: str
    version: str
    libraries: Sequence[Library]
    modules: Sequence[str]


def register(services: Services, offers: Sequence[Offer]) -> None:
    """Make these known, in place of what was known of the same names; any number of workers may do so at once.

    To be repeated every minute: what no worker has offered for `FORGOTTEN_AFTER_MS` is not offered any more.
    """
    now = services.clock()
    with transaction():
        Runtime.delete().where(Runtime.updated_at < now - FORGOTTEN_AFTER_MS).execute()
        for offer in offers:
            libraries = [{"name": each.name, "version": each.version} for each in offer.libraries]
            Runtime.insert(
                name=offer.name, version=offer.version, libraries=libraries, modules=list(offer.modules), updated_at=now
            ).on_conflict(
                conflict_target=[Runtime.name],
                preserve=[Runtime.version, Runtime.libraries, Runtime.modules, Runtime.updated_at],
            ).execute()


def known() -> list[Runtime]:
    """Every runtime, by name."""
    return list(Runtime.select().order_by(Runtime.name))


def find(name: str) -> Runtime:
    """The runtime of this name, or NotFound."""
    # Whatever can't be a name is not looked up: a database refuses to compare with some texts.
    runtime = Runtime.get_or_none(Runtime.name == name) if _NAME.fullmatch(name) else None
    if runtime is None:
        raise NotFound(f"There is no runtime '{name}'.")
    return runtime


def choose(name: str) -> Runtime:
    """The runtime that a new script asks for. Raises Invalid, naming those there are; NotReady if there is none yet."""
    offered = {each.name: each for each in known()}
    if not offered:
        raise NotReady("No worker has started yet, so there is no runtime to run scripts with.")
    if name not in offered:
        raise Invalid(f"runtime must be one of: {', '.join(offered)}.", field="runtime", value=name)
    return offered[name]


def modules(runtime: Runtime) -> frozenset[str]:
    """Every name that a script of this runtime may load: its libraries, and the language's own."""
    return frozenset(runtime.modules) | {library["name"] for library in runtime.libraries}
