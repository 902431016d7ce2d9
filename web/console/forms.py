"""The form of a script, in the seed's own field names: what came in, what it means, and what is wrong with it.

A form remembers every text as it was typed, so that the page can show it again beside what is wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from werkzeug.datastructures import MultiDict

from millrace import cron, languages, overview, scriptlimits, scripts
from millrace.errors import DomainError, Invalid
from millrace.retries import MOST, Policy
from millrace.scripts import names, types
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from web.console.languages import gettext as _
from web.console.languages import said
from web.console.sentences import translated

MAX_DESCRIPTION = 500
MAX_SOURCE_BYTES = 100 * 1024
RETRIES_OF_EVENTS = 3
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
DEFAULT_ZONE = "UTC"
# The seed's names of limits, ours, and whether they stand in a column of the script instead of its `limits`.
LIMITS = {
    "MaxExecutionTimeMs": ("timeout_ms", scriptlimits.TIMEOUT_MS),
    "MaxMemoryBytes": ("memory_bytes", scriptlimits.MEMORY_BYTES),
    "MaxConcurrentRuns": ("max_concurrent_runs", scriptlimits.CONCURRENT_RUNS),
    "MaxAPICallsPerMinute": ("api_calls_per_minute", scriptlimits.API_CALLS_PER_MINUTE),
    "MaxOutputSizeBytes": ("output_bytes", scriptlimits.OUTPUT_BYTES),
}
_CONCURRENT = "max_concurrent_runs"
# Where a verb's complaint belongs on the page.
_FIELD_OF = {
    "display_name": "Name", "name": "Name", "description": "Description", "script_content": "Source",
    "entry_point": "Source", "runtime": "Runtime", "type": "Type", "status": "Status", "schedule": "CronExpression",
    "time_zone": "TimeZone", "triggers.http": "HTTPPath", "triggers.http.path": "HTTPPath",
    "triggers.http.methods": "HTTPMethods", "triggers.http.secret": "HTTPSecret", "triggers.http.auth": "HTTPAuth",
    "triggers.events": "EventTypes", "retry.count": "MaxRetries",
    **{ours: name for name, (ours, _range) in LIMITS.items()},
}  # fmt: skip
HTTP_AUTH = ("member", "key", "none")
_IN_JAVASCRIPT = """\
// `context`, `sdk` and `events` are there in every script; what the handler returns is its output.
exports.handler = async (input) => {
  sdk.log.info('started', { trigger: context.trigger.type });
  return { message: `Hello, ${input.name ?? 'world'}!` };
};
"""
_IN_PYTHON = '''\
# `context`, `sdk` and `events` are there in every script; what the handler returns is its output.
def handler(payload, context):
    sdk.log.info("started")
    return {"message": f"Hello, {payload.get('name', 'world')}!"}
'''
STARTS = {languages.JAVASCRIPT.name: _IN_JAVASCRIPT, languages.PYTHON.name: _IN_PYTHON}


@dataclass
class ScriptForm:
    """One form: texts by field name, lists for the two that have several, and errors by field name."""

    values: dict[str, str]
    methods: list[str] = field(default_factory=list)
    event_types: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)  # of the source: line, column, message

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    @property
    def type(self) -> str:
        """The type that was chosen."""
        return self["Type"]


def blank(runtime: str) -> ScriptForm:
    """The form of a new script."""
    limits = {name: str(usual) for name, (_ours, (_low, _high, usual)) in LIMITS.items()}
    start = STARTS[languages.of(runtime).name]
    return ScriptForm(
        {"Type": scripts.ONEOFF, "Status": "draft", "TimeZone": DEFAULT_ZONE, "Runtime": runtime, "Source": start,
         "HTTPAuth": "member"} | limits, methods=["POST"],
    )  # fmt: skip


def of_script(found: overview.Overview, source: str) -> ScriptForm:
    """The form of a script that is there."""
    script, http = found.script, found.triggers.get("http", {})
    limits = scriptlimits.of(script)
    schedule = "" if found.schedule is None else found.schedule.expression
    values = {
        "Name": script.display_name, "Description": script.description or "", "Source": source, "Type": script.type,
        "Status": script.status, "Runtime": script.runtime, "CronExpression": cron.crontab_of(schedule) or schedule,
        "TimeZone": DEFAULT_ZONE if found.schedule is None else found.schedule.time_zone,
        "HTTPPath": http.get("path", ""), "HTTPAuth": http.get("auth", "member"),
        "MaxExecutionTimeMs": str(limits.timeout_ms), "MaxConcurrentRuns": str(script.max_concurrent_runs),
        "MaxMemoryBytes": str(limits.memory_bytes or limits.memory_mb * scriptlimits.MIB),
        "MaxAPICallsPerMinute": str(limits.api_calls_per_minute), "MaxOutputSizeBytes": str(limits.output_bytes),
        "Version": str(script.version), "MaxRetries": str((script.retry or {}).get("count", 0)),
    }  # fmt: skip
    patterns = [each["pattern"] for each in found.triggers.get("events", ())]
    return ScriptForm(values, [each for each in http.get("methods", ()) if each in METHODS], patterns)


def read(sent: "MultiDict[str, str]", present: ScriptForm | None = None) -> ScriptForm:
    """The form that was sent, with an error for each field that breaks a rule.

    `present` is that of the script that it changes: fields that were not sent stay as they are, and what was there
    before is not judged by this form's rules, for another face may allow more.
    """
    values = {name: text.replace("\r\n", "\n") for name, text in sent.items() if not name.startswith("_")}
    methods = list(dict.fromkeys(each.upper() for each in _several(sent, "HTTPMethods")))
    form = ScriptForm(values, methods, _several(sent, "EventTypes"))
    if present is None:
        form.values.setdefault("Status", "draft")
        form.values.setdefault("TimeZone", DEFAULT_ZONE)
    else:
        _keep_unsaid(form, present)
    same = {name for name in form.values if present is not None and form[name] == present[name]}
    _check_texts(form, same)
    _check_type(form)
    _check_limits(form, same)
    return form


def _keep_unsaid(form: ScriptForm, present: ScriptForm) -> None:
    # A browser sends nothing for a box without a tick: only without its neighbours it is unsaid.
    if "HTTPPath" not in form.values and not form.methods:
        form.methods = list(present.methods)
    if "EventTypes" not in form.values and not form.event_types:
        form.event_types = list(present.event_types)
    form.values = {**present.values, "Version": "", **form.values}
    # A browser's line breaks are no change.
    if form["Source"] == present["Source"].replace("\r\n", "\n"):
        form.values["Source"] = present["Source"]


def _several(sent: "MultiDict[str, str]", name: str) -> list[str]:
    """One field for each, with or without brackets in its name, or one with a line or a comma between them."""
    texts = "\n".join((*sent.getlist(name), *sent.getlist(f"{name}[]"))).replace(",", "\n").splitlines()
    return list(dict.fromkeys(each.strip() for each in texts if each.strip()))


def _check_texts(form: ScriptForm, same: Collection[str]) -> None:
    form.values["Name"] = form["Name"].strip()
    if "Name" not in same:
        _check_name(form)
    if "Description" not in same and len(form["Description"]) > MAX_DESCRIPTION:
        form.errors["Description"] = said(_("The description has %(count)s characters, %(most)s at most."),
                                          count=len(form["Description"]), most=MAX_DESCRIPTION)  # fmt: skip
    size = len(form["Source"].encode("utf-8", "surrogatepass"))
    if not form["Source"].strip():
        form.errors["Source"] = _("The source is required.")
    elif "Source" not in same and size > MAX_SOURCE_BYTES:
        form.errors["Source"] = said(_("The source has %(size)s bytes, %(most)s at most."), size=size,
                                     most=MAX_SOURCE_BYTES)  # fmt: skip


def _check_name(form: ScriptForm) -> None:
    try:
        names.check(form["Name"])
    except Invalid:
        form.errors["Name"] = said(_("The name must have 3 to 100 printable characters; this one has %(count)s."),
                                   count=len(form["Name"]))  # fmt: skip


def _check_type(form: ScriptForm) -> None:
    try:
        form.values["Type"] = types.read(form.type)
    except Invalid:
        form.errors["Type"] = _("Choose one of: scheduled, http, event, oneoff, embedded.")
        return
    if form.type == scripts.SCHEDULED and not form["CronExpression"].strip():
        form.errors["CronExpression"] = _("A scheduled script needs a cron expression.")
    if form.type == scripts.HTTP:
        _check_http(form)
    if form.type == scripts.EVENT and not form.event_types:
        form.errors["EventTypes"] = _("An event script needs one event type at least.")


def _check_http(form: ScriptForm) -> None:
    if not form["HTTPPath"].startswith("/"):
        form.errors["HTTPPath"] = _("An HTTP script needs a path that begins with “/”.")
    if not form.methods:
        form.errors["HTTPMethods"] = _("An HTTP script needs one method at least.")
    elif not set(form.methods) <= set(METHODS):
        form.errors["HTTPMethods"] = said(_("The methods are %(methods)s."), methods=", ".join(METHODS))
    if form["HTTPAuth"] not in ("", *HTTP_AUTH, "signature"):
        form.errors["HTTPAuth"] = said(_("Choose one of: %(choices)s."), choices=", ".join(HTTP_AUTH))


def _check_limits(form: ScriptForm, same: Collection[str]) -> None:
    ranges = {name: (low, high) for name, (_ours, (low, high, _usual)) in LIMITS.items()} | {"MaxRetries": (0, MOST)}
    for name, (low, high) in ranges.items():
        text = form[name].strip()
        if not text or name in same:
            continue
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
            form.errors[name] = said(_("%(name)s is %(value)s, but must be a whole number from %(low)s to %(high)s."),
                                     name=name, value=text[:40], low=low, high=high)  # fmt: skip


def limits(form: ScriptForm, present: ScriptForm | None = None) -> dict[str, int]:
    """The limits that the form says, by our names, without that of runs at once: the usual one where it says nothing.

    Of `present`, a script that is there, only those that it changes.
    """
    texts = {
        ours: form[name].strip() or ("" if present else str(usual))
        for name, (ours, (_low, _high, usual)) in LIMITS.items()
        if ours != _CONCURRENT and (present is None or form[name] != present[name])
    }  # fmt: skip
    return {ours: int(text) for ours, text in texts.items() if text}


def concurrent_runs(form: ScriptForm) -> int:
    """How many runs at once the form allows; the usual number if it does not say."""
    return int(form["MaxConcurrentRuns"].strip() or scriptlimits.CONCURRENT_RUNS[2])


def retry(form: ScriptForm) -> dict[str, Any] | None:
    """The retry policy that the form says: after 2, 4, 8 seconds and so on. Events have one unless it says no."""
    usual = RETRIES_OF_EVENTS if form.type == scripts.EVENT else 0
    count = int(form["MaxRetries"].strip() or usual)
    return Policy(count, delay_seconds=2.0, factor=2.0, jitter=False).as_json() if count else None


def triggers(form: ScriptForm, before: Mapping[str, Any]) -> Triggers:
    """What the form says of events and paths. `before` are the triggers that are there.

    What only the API can say stays: a method that the form has no box for; and an event's filter and how a signature is
    made, as long as its pattern or its way of proof does.
    """
    if form.type == scripts.EVENT:
        filters = {each["pattern"]: each.get("filter") for each in before.get("events", ())}
        return Triggers(events=[EventTrigger(each, filters.get(each)) for each in form.event_types])
    if form.type != scripts.HTTP:
        return Triggers()
    http = before.get("http", {})
    auth = form["HTTPAuth"] or http.get("auth", "member")
    kept = http if http.get("auth") == auth else {}
    unseen = [each for each in http.get("methods", ()) if each not in METHODS and each not in form.methods]
    return Triggers(http=HttpTrigger(
        form["HTTPPath"], [*form.methods, *unseen], auth=auth, scheme=kept.get("scheme"),
        secret=form["HTTPSecret"] or None, mode=http.get("mode", "sync"),
    ))  # fmt: skip


def blame(form: ScriptForm, error: DomainError) -> None:
    """Put what a verb refused beside the field that it is about; else above the form."""
    details = error.details
    for detail in details:
        where = _FIELD_OF.get(detail.field) or _FIELD_OF.get(detail.field.partition("[")[0], "")
        form.errors.setdefault(where, translated(detail.message))
        if detail.line is not None:
            form.findings.append({"line": detail.line, "column": detail.column, "message": translated(detail.message)})
    if form.findings:
        form.errors["Source"] = said_findings(form.findings)
    if not details:
        form.errors[""] = translated(error.message)


def said_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a source, line by line."""
    lines = [said(_("Line %(line)s, column %(column)s: %(message)s"), **each) for each in findings[:20]]
    return "\n".join(lines)
