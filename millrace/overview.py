"""All that is shown of scripts, read with a fixed number of queries however many they are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from millrace import scripts, secrets, triggers
from millrace.models import Hook, Schedule, Script, Secret, Subscription, Version


@dataclass(frozen=True)
class Overview:
    """A script with its current version, its schedule, its secrets as references, and its triggers without secrets."""

    script: Script
    version: Version
    schedule: Schedule | None
    secrets: dict[str, str]
    triggers: dict[str, Any]


def of(script: Script) -> Overview:
    """One script's. Raises NotFound when it was deleted meanwhile."""
    found = of_all([script])
    if not found:
        raise scripts.not_found(script.slug)
    return found[0]


def of_all(shown: Sequence[Script]) -> list[Overview]:
    """Those of many, in the same order, without any that was deleted meanwhile."""
    uuids = [script.uuid for script in shown]
    current = {
        version.script_id: version
        for version in Version.select().join(Script).where(Script.uuid.in_(uuids), Version.number == Script.version)
    }
    schedules = {row.script_id: row for row in Schedule.select().where(Schedule.script.in_(uuids))}
    hooks = {row.script_id: row for row in Hook.select().where(Hook.script.in_(uuids))}
    names: defaultdict[str, list[str]] = defaultdict(list)
    sealed = Secret.select(Secret.script, Secret.name).where(Secret.script.in_(uuids)).order_by(Secret.name)
    for secret in sealed:
        names[secret.script_id].append(secret.name)
    subscribed: defaultdict[str, list[Subscription]] = defaultdict(list)
    for row in Subscription.select().where(Subscription.script.in_(uuids)).order_by(Subscription.id):
        subscribed[row.script_id].append(row)
    return [
        Overview(
            script,
            current[script.uuid],
            schedules.get(script.uuid),
            {name: secrets.reference(script, name) for name in names[script.uuid]},
            triggers.shown(subscribed[script.uuid], hooks.get(script.uuid)),
        )
        for script in shown
        if script.uuid in current
    ]
