"""The tables, a file per noun."""

from millrace.models.audit import Audit
from millrace.models.base import Model, proxy
from millrace.models.batch import Batch
from millrace.models.callback import Callback
from millrace.models.datasource import DataSource
from millrace.models.event import Event
from millrace.models.run import Artifact, Attempt, DeadLetter, IdempotencyKey, Run
from millrace.models.runtime import Runtime
from millrace.models.script import Firing, Hook, Schedule, Script, Secret, Subscription, Version
from millrace.models.usage import UsageHour
from millrace.models.user import Invitation, Member, Role, Session, User
from millrace.models.workspace import ApiKey, Workspace

__all__ = [
    "ApiKey", "Artifact", "Attempt", "Audit", "Batch", "Callback", "DataSource", "DeadLetter", "Event", "Firing",
    "Hook", "IdempotencyKey", "Invitation", "Member", "Model", "Role", "Run", "Runtime", "Schedule", "Script",
    "Secret", "Session", "Subscription", "UsageHour", "User", "Version", "Workspace", "proxy",
]
