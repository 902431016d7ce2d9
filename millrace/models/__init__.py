"""The tables, a file per noun."""

from millrace.models.audit import Audit
from millrace.models.base import Model, proxy
from millrace.models.batch import Batch
from millrace.models.callback import Callback
from millrace.models.event import Event
from millrace.models.run import Artifact, Attempt, DeadLetter, IdempotencyKey, Run
from millrace.models.runtime import Runtime
from millrace.models.script import Firing, Hook, Schedule, Script, Secret, Subscription, Version
from millrace.models.workspace import ApiKey, Member, Workspace

__all__ = [
    "ApiKey", "Artifact", "Attempt", "Audit", "Batch", "Callback", "DeadLetter", "Event", "Firing", "Hook",
    "IdempotencyKey", "Member", "Model", "Run", "Runtime", "Schedule", "Script", "Secret", "Subscription", "Version",
    "Workspace", "proxy",
]
