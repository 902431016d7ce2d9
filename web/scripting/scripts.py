"""Scripts: create, list, read, change, delete; their versions."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Response

from millrace import checks, languages, overview, removal, runtimes, scripts
from millrace.models import Script
from millrace.triggers import EventTrigger, HttpTrigger, Triggers
from web import cursors, sources, wire
from web.scripting import PREFIX, lookup, schedules, schemas, words

blueprint = wire.Blueprint("Scripts", __name__, url_prefix=PREFIX, description="Code with its configuration.")

_CONFLICTS = (
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,  # large sources, each of which takes seconds to check
)
# What a request and a script's row call by the same name.
_COLUMNS = (
    "display_name", "description", "entry_point", "memory_mb", "timeout_seconds", "isolation", "max_concurrent_runs",
    "egress_hosts", "tags", "retry", "concurrency", "callback_url",
)  # fmt: skip


@blueprint.route("/scripts", methods=["POST"])
@blueprint.arguments(schemas.ScriptCreate)
@blueprint.response(HTTPStatus.CREATED, schemas.Script)
@blueprint.refuses(*_CONFLICTS)
def create_script(body: dict[str, Any]) -> dict[str, Any]:
    """Create a script

    The source is checked first: base64, hash, size, syntax, the exported entry point, forbidden modules and
    constructs. What fails is 400, with line and column in `details`, and nothing is stored.
    """
    wire.note(script=body["id"])
    runtime = runtimes.choose(body["runtime"])
    source = checks.decode_content(body["script_content"], body["script_hash"])
    sources.check(source, runtime, body.get("entry_point") or languages.of(runtime.name).entry_point)
    names = (*_COLUMNS, "runtime", "time_zone", "schedule_policy", "secrets", "callback_secret")
    given = {name: body[name] for name in names if name in body}
    new = scripts.NewScript(
        slug=body["id"],
        source=source,
        schedule=body.get("schedule") or None,
        triggers=_triggers(body.get("triggers", {})),
        **given,
    )
    return _changed(scripts.create(wire.services(), wire.workspace().id, new))


@blueprint.route("/scripts")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.ScriptPage)
def list_scripts(query: dict[str, Any]) -> dict[str, Any]:
    """List scripts, newest first"""
    workspace = wire.workspace().id
    listing = f"scripts {workspace}"
    rows, following = scripts.page(workspace, cursors.decode(listing, query.get("cursor")), query["page_size"])
    return {
        "scripts": [shown(each) for each in overview.of_all(rows)],
        "next_cursor": cursors.encode(listing, following),
    }


@blueprint.route("/scripts/<script_id>")
@blueprint.response(HTTPStatus.OK, schemas.Script)
def get_script(script_id: str) -> dict[str, Any]:
    """Read a script"""
    return shown(overview.of(lookup.script(script_id)))


@blueprint.route("/scripts/<script_id>", methods=["PUT"])
@blueprint.arguments(schemas.ScriptUpdate)
@blueprint.response(HTTPStatus.OK, schemas.Script)
@blueprint.refuses(*_CONFLICTS, HTTPStatus.UNPROCESSABLE_ENTITY)
def update_script(body: dict[str, Any], script_id: str) -> dict[str, Any]:
    """Change a script

    Only what is given changes. New content makes a new version; the same content does not. `schedule: ""`
    removes the schedule, `secrets` replaces all secrets, `triggers` replaces all triggers.
    """
    script = lookup.script(script_id)
    columns = {name: body[name] for name in _COLUMNS if name in body}
    if "status" in body:
        columns["status"] = words.wanted_script_status(script, body["status"])
    change = scripts.Change(
        columns=columns,
        source=_changed_source(script, body),
        schedule=(body["schedule"] or "") if "schedule" in body else None,
        time_zone=body.get("time_zone"),
        schedule_policy=body.get("schedule_policy"),
        secrets=body.get("secrets"),
        triggers=_triggers(body["triggers"]) if "triggers" in body else None,
        callback_secret=body.get("callback_secret"),
    )
    return _changed(scripts.update(wire.services(), script, change))


def _changed(script: Script) -> dict[str, Any]:
    """With the secret that was made for it just now, which nobody is shown again."""
    fresh = script.fresh_callback_secret
    return shown(overview.of(script)) | ({} if fresh is None else {"callback_secret": fresh})


def _changed_source(script: Script, body: Mapping[str, Any]) -> bytes | None:
    """The new source, checked, if there is one. The stored one must still fit a new entry point."""
    entry_point = body.get("entry_point", script.entry_point)
    if "script_content" in body:
        source = checks.decode_content(body["script_content"], body["script_hash"])
        sources.check(source, runtimes.choose(script.runtime), entry_point)
        return source
    if entry_point != script.entry_point:
        stored = scripts.source(wire.services(), scripts.version(script, script.version))
        sources.check(stored, runtimes.choose(script.runtime), entry_point, or_body=True)
    return None


@blueprint.route("/scripts/<script_id>", methods=["DELETE"])
@blueprint.response(HTTPStatus.NO_CONTENT)
def delete_script(script_id: str) -> Response:
    """Delete a script with all that belongs to it

    Its versions, schedule, secrets, triggers, runs, logs and artifacts go with it.
    """
    removal.delete(wire.services(), lookup.script(script_id))
    return Response(status=HTTPStatus.NO_CONTENT)


@blueprint.route("/scripts/<script_id>/versions")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(HTTPStatus.OK, schemas.VersionPage)
@blueprint.extension()
def list_versions(query: dict[str, Any], script_id: str) -> dict[str, Any]:
    """List a script's versions, newest first"""
    script = lookup.script(script_id)
    listing = f"versions {script.uuid}"
    position = cursors.decode(listing, query.get("cursor"))
    rows = scripts.versions(script, before=position and position[0], size=query["page_size"] + 1)
    more = len(rows) > query["page_size"]
    rows = rows[: query["page_size"]]
    return {
        "versions": [
            {
                "script_version": row.number, "script_hash": row.hash, "size": row.size,
                "restored_from": row.restored_from, "created_at": words.time(row.created_at),
            }
            for row in rows
        ],
        "next_cursor": cursors.encode(listing, (rows[-1].number, script.uuid) if more else None),
    }  # fmt: skip


@blueprint.route("/scripts/<script_id>/versions/<int:number>/diff")
@blueprint.arguments(schemas.DiffQuery, location="query")
@blueprint.response(HTTPStatus.OK, {"type": "string"}, content_type="text/plain")
@blueprint.refuses(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
@blueprint.extension()
def diff_versions(query: dict[str, Any], script_id: str, number: int) -> Response:
    """Compare a version with another

    Unified text: what changed from `against` to this one; empty when nothing did.
    """
    text = scripts.diff(wire.services(), lookup.script(script_id), number, query["against"])
    return Response(text, mimetype="text/plain")


@blueprint.route("/scripts/<script_id>/rollback", methods=["POST"])
@blueprint.arguments(schemas.Rollback)
@blueprint.response(HTTPStatus.OK, schemas.Script)
@blueprint.refuses(*_CONFLICTS)
@blueprint.extension()
def roll_back(body: dict[str, Any], script_id: str) -> dict[str, Any]:
    """Bring back an old version's content, as a new version

    The old source is checked again, since the entry point and the rules may have changed.
    """
    script = lookup.script(script_id)
    old = scripts.source(wire.services(), scripts.version(script, body["version"]))
    sources.check(old, runtimes.choose(script.runtime), script.entry_point, or_body=True)
    return shown(overview.of(scripts.rollback(wire.services(), script, body["version"])))


def _triggers(given: Mapping[str, Any]) -> Triggers:
    events: Sequence[Mapping[str, Any]] = given.get("events", ())
    http = given.get("http")
    return Triggers(
        events=[EventTrigger(each["pattern"], each.get("filter")) for each in events],
        http=None if http is None else HttpTrigger(**http),
    )


def shown(of: overview.Overview) -> dict[str, Any]:
    """A script in this face's shape."""
    script = of.script
    return {
        "uuid": script.uuid,
        "id": script.slug,
        "workspace_id": script.workspace_id,
        "runtime": script.runtime,
        "script_hash": of.version.hash,
        "script_version": script.version,
        "script_s3_key": of.version.object_key,
        "ephemeral_storage_mb": script.ephemeral_storage_mb,
        "schedule": of.schedule and of.schedule.expression,
        "time_zone": of.schedule and of.schedule.time_zone,
        "schedule_policy": of.schedule and schedules.policy(of.schedule),
        "secrets": of.secrets,
        "triggers": of.triggers,
        "created_at": words.time(script.created_at),
        "updated_at": words.time(script.updated_at),
        **{name: getattr(script, name) for name in _COLUMNS},
        "status": words.script_status(script.status),
        "description": script.description or "",
    }
