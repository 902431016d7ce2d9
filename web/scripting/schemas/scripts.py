"""Scripts and their versions."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from millrace import callbacks, checks, retries, scripts, secrets, triggers
from web.scripting import words
from web.scripting.fields import Many, Number, Object, Text, a_time, an_id, described, extension, is_host, one_of
from web.scripting.schemas.schedules import SchedulePolicy, SchedulePolicyShown

_SLUG = f"^{scripts.SLUG.pattern}$"
_MAX_CONTENT = checks.MAX_SOURCE_BYTES * 2 + 1024  # longer base64 can't hold an allowed source


class EventTrigger(Schema):
    """A subscription to events."""

    pattern = Text(
        required=True,
        validate=validate.Length(1, 255),
        metadata=described("Event names: `*` matches one segment, `**` any number.", example="order.*"),
    )
    filter = Object(metadata=described("Conditions on the event's fields; absent matches every event."))


class HttpTriggerShown(Schema):
    """A path under /hooks/{workspace}, without its secret."""

    path = Text(required=True, validate=validate.Length(2, 200), metadata={"example": "/orders"})
    methods = Many(Text(validate=one_of(*triggers.METHODS)), 1, 6, load_default=lambda: ["POST"])
    auth = Text(
        load_default="key",
        validate=one_of(*triggers.AUTH),
        metadata=described("`member`: not under /hooks at all, but for the workspace's own people and keys."),
    )
    scheme = Text(
        validate=one_of("standard", "github", "stripe"), metadata=described("With auth `signature`: whose headers.")
    )
    mode = Text(load_default="sync", validate=one_of("sync", "async"))


class HttpTrigger(HttpTriggerShown):
    """A path under /hooks/{workspace} that starts the script."""

    secret = Text(
        load_only=True,
        validate=validate.Length(8, 500),
        metadata=described("The key or signing secret. Absent in an update: the stored one stays."),
    )


class Triggers(Schema):
    """What starts the script besides the API and its schedule."""

    events = Many(fields.Nested(EventTrigger), 0, 50)
    http = fields.Nested(HttpTrigger)


class TriggersShown(Schema):
    """What starts the script besides the API and its schedule, without secrets."""

    events = fields.List(fields.Nested(EventTrigger))
    http = fields.Nested(HttpTriggerShown)


class Retry(Schema):
    """When a run that failed is tried again."""

    count = Number(1, retries.MOST, required=True, metadata=described("How often at most."))
    delay_seconds = Number(0, retries.LONGEST_S, load_default=2, metadata=described("Before the first retry."))
    factor = Number(1, 10, load_default=2, metadata=described("By which the delay grows with each retry."))
    max_delay_seconds = Number(0, retries.LONGEST_S, load_default=600)
    jitter = fields.Boolean(
        load_default=True, truthy={True}, falsy={False}, metadata=described("Takes up to half of each delay away.")
    )
    on = Many(
        Text(validate=validate.Length(1, 200)),
        1,
        20,
        load_default=lambda: list(retries.KINDS),
        metadata=described("`failed`, `timed_out`, `worker_lost`, or names of errors.", example=["AxiosError"]),
    )


class Concurrency(Schema):
    """Runs that have the same value in their payload share places."""

    key = Text(
        required=True,
        validate=validate.Regexp(r"^[A-Za-z0-9_$-]{1,64}(\.[A-Za-z0-9_$-]{1,64}){0,9}$", error="Must match {regex}."),
        metadata=described("Names in the payload, with dots between them.", example="customer.id"),
    )
    limit = Number(1, 1000, load_default=1, metadata=described("Runs at once for each value."))


class _ScriptFields(Schema):
    """What create and update have in common."""

    description = Text(allow_none=True, validate=validate.Length(max=4000))
    memory_mb = Number(*scripts.MEMORY_MB, metadata=described("Memory of a run, in MiB; 256 unless said."))
    timeout_seconds = Number(*scripts.TIMEOUT_SECONDS, metadata=described("Time limit of a run; 30 unless said."))
    schedule = Text(
        allow_none=True,
        validate=validate.Length(max=300),
        metadata=described(
            '`hourly`, `daily`, `weekly`, `rate(...)` or `cron(...)` as in EventBridge, or `crontab(...)` with Unix\'s '
            'five fields; "" or null for none.',
            example="rate(6 hours)",
        ),
    )
    secrets = fields.Dict(
        keys=Text(),
        values=Text(),
        validate=validate.Length(max=secrets.MAX_NAMES),
        metadata=described(
            "Name to value. In an update these replace all; a `secret://` reference keeps the stored value.",
            example={"API_KEY": "sk-abc123"},
        ),
    )
    tags = fields.Dict(
        keys=Text(validate=validate.Length(1, 128)),
        values=Text(validate=validate.Length(max=256)),
        validate=validate.Length(max=50),
        metadata={"example": {"team": "billing"}},
    )
    time_zone = Text(
        validate=validate.Length(1, 64),
        metadata=extension("IANA time zone of the schedule; UTC unless said.", example="Europe/Zurich"),
    )
    schedule_policy = fields.Nested(
        SchedulePolicy, metadata=extension("What becomes of due times that overlap or were missed.")
    )
    isolation = Text(
        validate=one_of(*scripts.ISOLATION),
        metadata=extension("`reuse` may run a version again in the jail of its last run; `fresh` never does."),
    )
    max_concurrent_runs = Number(
        *scripts.MAX_CONCURRENT_RUNS, metadata=extension("Runs at once; the others wait. 10 unless said.")
    )
    retry = fields.Nested(
        Retry, allow_none=True, metadata=extension("Whether a run that failed is tried again. null: it is not.")
    )
    concurrency = fields.Nested(
        Concurrency, allow_none=True, metadata=extension("Limits runs at once by a value of the payload.")
    )
    egress_hosts = Many(
        Text(validate=[validate.Length(1, 253), is_host]),
        0,
        100,
        allow_none=True,
        metadata=extension(
            "Hosts that the script may reach: names, `*.name` or addresses. null: every public host.",
            example=["api.example.com", "*.example.org"],
        ),
    )
    callback_url = Text(
        allow_none=True,
        validate=validate.Length(1, callbacks.MAX_URL),
        metadata=extension(
            "Who is told when a run of the script is over, by a signed POST. null: nobody.",
            example="https://example.com/millrace",
        ),
    )
    callback_secret = Text(
        validate=validate.Length(*callbacks.SECRET_LENGTH),
        load_only=True,
        metadata=extension(
            "What callbacks are signed with: base64 of 16 bytes or more after `whsec_`. One is made for a callback_url "
            "without."
        ),
    )
    triggers = fields.Nested(Triggers, metadata=extension("Events and a webhook that start the script. {}: none."))


_CONTENT = described("Base64 of the source, which may have 5 MiB.", format="byte")
_HASH = described("SHA-256 of the raw source (not of the base64), in hexadecimal.", pattern="^[0-9a-fA-F]{64}$")
_ENTRY = described(
    "The function to call: an export in JavaScript, where `handler` and `exports.handler` mean the same; a name of "
    "main.py in Python. `exports.handler` or `handler` unless said.", example="exports.handler"
)


class ScriptCreate(_ScriptFields):
    """A new script."""

    id = Text(
        required=True,
        validate=validate.Regexp(_SLUG, error="Must match {regex}."),
        metadata=described(
            "Unique in the workspace: 3 to 63 lowercase letters, digits and hyphens.", example="my-script"
        ),
    )
    display_name = Text(required=True, validate=validate.Length(1, 200), metadata={"example": "My First Script"})
    runtime = Text(
        required=True, validate=validate.Length(1, 30), metadata=described("One of GET /runtimes.", example="nodejs20")
    )
    script_content = Text(required=True, validate=validate.Length(max=_MAX_CONTENT), metadata=_CONTENT)
    script_hash = Text(required=True, metadata=_HASH)
    entry_point = Text(validate=validate.Length(1, 200), metadata=_ENTRY)


class ScriptUpdate(_ScriptFields):
    """What to change; a field that is left out stays as it is."""

    display_name = Text(validate=validate.Length(1, 200))
    script_content = Text(validate=validate.Length(max=_MAX_CONTENT), metadata=_CONTENT)
    script_hash = Text(metadata=_HASH)
    entry_point = Text(validate=validate.Length(1, 200), metadata=described("The function to call."))
    status = Text(
        validate=one_of(words.ACTIVE, words.INACTIVE),
        metadata=extension(
            "An inactive script is not started by anything. 422 for one that was disabled or archived for good."
        ),
    )

    @validates_schema
    def _together(self, data: Mapping[str, Any], **_: Any) -> None:
        for given, missing in (("script_content", "script_hash"), ("script_hash", "script_content")):
            if given in data and missing not in data:
                raise ValidationError(f"Is required together with {given}.", missing)


class Script(Schema):
    """A script. Neither its source nor any secret's value is ever shown."""

    uuid = an_id()
    id = fields.String(required=True, metadata={"pattern": _SLUG})
    workspace_id = fields.String(required=True)
    display_name = fields.String(required=True)
    description = fields.String(required=True, metadata=described('"" when there is none.'))
    runtime = fields.String(required=True)
    script_hash = fields.String(required=True, metadata=described("SHA-256 of the source, in hexadecimal."))
    script_version = fields.Integer(required=True, metadata=described("Rises by one with each new content."))
    script_s3_key = fields.String(required=True)
    entry_point = fields.String(required=True)
    status = fields.String(
        required=True,
        validate=one_of(words.ACTIVE, words.INACTIVE, "validating", "failed_validation"),
        metadata=described("`active` or `inactive`: sources are validated before they are stored."),
    )
    memory_mb = fields.Integer(required=True)
    timeout_seconds = fields.Integer(required=True)
    ephemeral_storage_mb = fields.Integer(required=True)
    schedule = fields.String(required=True, allow_none=True)
    secrets = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata=described("Name to reference.", example={"API_KEY": "secret://millrace/scripts/ws/my-script/API_KEY"}),
    )
    tags = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    created_at = a_time("When it was created.")
    updated_at = a_time("When it was changed last.")
    time_zone = fields.String(
        required=True, allow_none=True, metadata=extension("The schedule's zone; null without a schedule.")
    )
    schedule_policy = fields.Nested(
        SchedulePolicyShown, required=True, allow_none=True, metadata=extension("See create; null without a schedule.")
    )
    isolation = fields.String(required=True, validate=one_of(*scripts.ISOLATION), metadata=extension("See create."))
    retry = fields.Nested(Retry, required=True, allow_none=True, metadata=extension("Its retry policy."))
    concurrency = fields.Nested(Concurrency, required=True, allow_none=True, metadata=extension("Places by key."))
    max_concurrent_runs = fields.Integer(required=True, metadata=extension("See create."))
    egress_hosts = fields.List(fields.String(), required=True, allow_none=True, metadata=extension("See create."))
    callback_url = fields.String(required=True, allow_none=True, metadata=extension("See create."))
    callback_secret = fields.String(
        metadata=extension("In the answer of the request alone that had it made; it is not shown again.")
    )
    triggers = fields.Nested(TriggersShown, required=True, metadata=extension("See create; without secrets."))


class ScriptPage(Schema):
    """Scripts, newest first."""

    scripts = fields.List(fields.Nested(Script), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class Version(Schema):
    """One version of a script's source."""

    script_version = fields.Integer(required=True)
    script_hash = fields.String(required=True)
    size = fields.Integer(required=True, metadata=described("Bytes of source."))
    restored_from = fields.Integer(
        required=True, allow_none=True, metadata=described("The version whose content a rollback brought back.")
    )
    created_at = a_time("When it was uploaded.")


class VersionPage(Schema):
    """Versions, newest first."""

    versions = fields.List(fields.Nested(Version), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class DiffQuery(Schema):
    """Which version to compare with."""

    against = Number(1, 2**31 - 1, of_query=True, required=True, metadata=described("The older version, usually."))


class Rollback(Schema):
    """Which content to bring back."""

    version = Number(1, 2**31 - 1, required=True)
