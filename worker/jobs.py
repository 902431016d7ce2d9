"""From what the database knows of a run to the job that a jail gets."""

from dataclasses import dataclass, field
from typing import Any

from millrace import languages, logs, runs
from millrace.assignments import Assignment
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
    main, source = languages.of(name).main, sources.get(assignment.source_key)
    runtime = runtimes.load_all().get(name)  # if it is none of ours, the launcher says so
    job = Job(
        run_id=assignment.run.id,
        runtime=name,
        files={main: source},
        main=main,
        entry_point=assignment.script.entry_point,
        payload=runs.payload_text(services, assignment.run).encode(),
        context=_context(assignment, attempt),
        secrets=opened.values,
        reuse_key=_reuse_key(assignment),
        egress_hosts=_hosts(assignment),
        egress_group=assignment.run.workspace_id,
        preloaded=runtime is not None and runtime.is_preloaded_for(source),
        limits=Limits(
            memory_mb=assignment.script.memory_mb,
            timeout_ms=assignment.script.timeout_seconds * 1000,
            log_bytes=services.settings.run_log_mb * MIB,
        ),
    )
    return Gathered(assignment, job, opened.redactor)


def _context(assignment: Assignment, attempt: int) -> dict[str, Any]:
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
    }


def _reuse_key(assignment: Assignment) -> str | None:
    script = assignment.script
    if script.isolation != "reuse":
        return None
    # The revision stands for all else that a booted jail has seen: secrets, limits, hosts.
    return f"{assignment.run.workspace_id}:{script.uuid}:{assignment.run.version}:{script.revision}"


def _hosts(assignment: Assignment) -> tuple[str, ...] | None:
    hosts = assignment.script.egress_hosts
    return None if hosts is None else tuple(hosts)
