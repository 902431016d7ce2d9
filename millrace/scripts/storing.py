"""Where the source of a version is kept, and what is told of a script."""

import hashlib
from typing import Any

from millrace import events, languages, limits
from millrace.models import Script, Version
from millrace.services import Services


def add_version(
    script: Script, number: int, content: bytes, key: str, now: int, *, restored: int | None = None,
    created_by: int | None = None, note: str | None = None,
) -> None:  # fmt: skip
    Version.create(script=script.uuid, number=number, hash=sha256(content), size=len(content), object_key=key,
                   created_at=now, restored_from=restored, created_by=created_by, note=note)


def store_source(services: Services, script: Script, number: int, content: bytes) -> str:
    limits.check_stored(script.workspace_id)
    language = languages.of(script.runtime)
    # The hash keeps two updates at once from writing to the same key; a token keeps a failed one from deleting
    # what the other wrote, should both carry the same content.
    key = f"scripts/{script.uuid}/{number}-{sha256(content)[:12]}-{services.new_id()[-8:]}{language.suffix}"
    services.objects.put(key, content, content_type=language.content_type)
    return key


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record_fact(services: Services, script: Script, name: str, **more: Any) -> str | None:
    data = {"script_id": script.slug, "script_version": script.version, **more}
    return events.record_fact(services, script.workspace_id, name, data, subject=script.slug)


def announce(services: Services, *facts: str | None) -> None:
    for fact in facts:
        if fact is not None:
            services.bus.announce(fact)
