"""The console: pages for people under /scripts and beside it, in the words of the seed.

A view says who may, what comes in and what goes out; the verbs decide. Whole pages for a browser, one block of them for
HTMX, and every page works without scripts where that can be.
"""

from flask import Blueprint, Flask, Response

from millrace.settings import Settings
from web import auth
from web.console import (
    apikeys,
    assets,
    audit,
    deadletters,
    errors,
    events,
    execution,
    executions,
    identity,
    languages,
    members,
    pages,
    profile,
    schedules,
    scripts,
    secrets,
    settings,
    signin,
    usage,
    versions,
)

_home = Blueprint("console_home", __name__)


@_home.route("/")
def _first() -> Response:
    return pages.go("/scripts")


# Every page with whoever may look at it.
BLUEPRINTS: tuple[tuple[Blueprint, auth.Guard], ...] = (
    (_home, identity.signed_in),
    (scripts.blueprint, identity.signed_in),
    (executions.blueprint, identity.signed_in),
    (execution.blueprint, identity.signed_in),
    (schedules.blueprint, identity.signed_in),
    (events.blueprint, identity.signed_in),
    (deadletters.blueprint, identity.signed_in),
    (secrets.blueprint, identity.signed_in),
    (versions.blueprint, identity.signed_in),
    (members.blueprint, identity.signed_in),
    (apikeys.blueprint, identity.signed_in),
    (usage.blueprint, identity.signed_in),
    (audit.blueprint, identity.signed_in),
    (settings.blueprint, identity.signed_in),
    (profile.blueprint, profile.person),
    (signin.blueprint, identity.visitor),
)
for _each, _ in BLUEPRINTS:
    errors.install(_each)


def install(app: Flask, settings: Settings) -> None:
    """Register the console with this application."""
    identity.install(app, settings)
    languages.install(app)
    pages.install(app)
    signin.install(app)
    app.register_blueprint(assets.blueprint)
    auth.state(app, assets.blueprint.name, auth.public)
    for blueprint, guard in BLUEPRINTS:
        app.register_blueprint(blueprint)
        auth.state(app, blueprint.name, guard)
