"""From what the database knows of a run to the job that a jail gets."""

import json
from dataclasses import dataclass, field
from typing import Any

from millrace import cron, languages, logs, runs, scriptlimits
from millrace.assignments import Assignment
from millrace.models import Script
from millrace.redaction import Redactor
from millrace.services import Services
from sandbox import runtimes
from sandbox.job import MIB, Job, Limits
from worker.opened import OpenedSecrets
from worker.sources import Sources


@dataclass(frozen=True)
class Gathered:
    """Everything that a run needs; `redactor` is None when there is nothing to hide."""

    assignment: Assignment
    job: Job
    redactor: Redactor | None = field(repr=False)


def gather(
    services: Services, sources: Sources, secrets: OpenedSecrets, assignment: Assignment, attempt: int
) -> Gathered:
    """Fetch source, payload and secrets. Raises PlatformError when a store fails or a secret won't open."""
    opened = secrets.get(assignment)
    name = assignment.script.runtime
    main, source = languages.of(name).main, sources.get(assignment.source_key, name)
    runtime = runtimes.load_all().get(name)  # if it is none of ours, the launcher says so
    payload = runs.payload_text(services, assignment.run)
    job = Job(
        run_id=assignment.run.id,
        runtime=name,
        files={main: source},
        main=main,
        entry_point=assignment.script.entry_point,
        payload=payload.encode(),
        context=_context(assignment, attempt, payload),
        secrets=opened.values,
        reuse_key=_reuse_key(assignment),
        egress_hosts=_hosts(assignment),
        egress_group=assignment.run.workspace_id,
        preloaded=runtime is not None and runtime.is_preloaded_for(source),
        limits=_limits(services, assignment.script),
    )
    return Gathered(assignment, job, opened.redactor)


def _limits(services: Services, script: Script) -> Limits:
    limits = scriptlimits.of(script)
    return Limits(
        memory_mb=limits.memory_mb,
        runtime_mb=0 if limits.memory_bytes is None else scriptlimits.RUNTIME_MB,
        timeout_ms=limits.timeout_ms,
        result_bytes=limits.output_bytes,
        log_bytes=services.settings.run_log_mb * MIB,
    )


def _context(assignment: Assignment, attempt: int, payload: str) -> dict[str, Any]:
    run, script = assignment.run, assignment.script
    trigger = {"type": run.trigger}
    if run.event_id is not None:
        trigger["event"] = run.event_id
    if run.due_at is not None:
        trigger["dueAt"] = logs.timestamp(run.due_at)
    return {
        "runId": run.id,
        "workspaceId": run.workspace_id,
        "scriptUuid": script.uuid,
        "scriptId": script.slug,
        "scriptVersion": run.version,
        "attempt": attempt,
        "trigger": trigger,
        "sdk": _sdk_context(assignment, payload),
    }


def _sdk_context(assignment: Assignment, payload: str) -> dict[str, Any]:
    """What the SDK's own `context` tells, in its words."""
    run = assignment.run
    return {
        "tenantId": run.workspace_id,
        "userId": run.user_id,
        "organizationId": None,
        "scriptId": assignment.script.uuid,
        "executionId": run.id,
        "trigger": {
            "type": _SDK_TRIGGERS.get(run.trigger, run.trigger),
            "eventType": _event_type(payload) if run.trigger == "event" else None,
            "cronExpression": _cron(assignment.schedule) if run.trigger == "schedule" else None,
        },
    }


def _cron(schedule: str | None) -> str | None:
    """As the script's author wrote it."""
    return schedule and (cron.crontab_of(schedule) or schedule)


_SDK_TRIGGERS = {"schedule": "cron", "batch": "api"}


def _event_type(payload: str) -> str | None:
    """The name of the event, as whoever routed it put it into the payload."""
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):  # numbers of thousands of digits, or too deep for this parser
        return None
    name = event.get("name") if isinstance(event, dict) else None
    return name if isinstance(name, str) else None


def _reuse_key(assignment: Assignment) -> str | None:
    script = assignment.script
    if script.isolation != "reuse":
        return None
    # The revision stands for all else that a booted jail has seen: secrets, limits, hosts.
    return f"{assignment.run.workspace_id}:{script.uuid}:{assignment.run.version}:{script.revision}"


def _hosts(assignment: Assignment) -> tuple[str, ...] | None:
    hosts = assignment.script.egress_hosts
    return None if hosts is None else tuple(hosts)
