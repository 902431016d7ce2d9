"""The web process's application."""

import threading

from flask import Flask, Response
from werkzeug.middleware.proxy_fix import ProxyFix

from millrace import observability, wiring
from millrace.checks.apart import Checker
from millrace.services import Services
from millrace.settings import Settings
from web import access_log, auth, console, docs, health, hooks, httpscripts, metrics, openapi, wire
from web.probes import Probes
from web.scripting import batches, callbacks, errors, events, limits, replays, runs, runtimes, schedules, scripts
from web.waiting import Seats

_API = (
    scripts.blueprint, runs.blueprint, replays.blueprint, schedules.blueprint, events.blueprint, runtimes.blueprint,
    limits.blueprint, batches.blueprint, callbacks.blueprint,
)  # fmt: skip


def main() -> Flask:
    """The application on what the environment names. Raises SettingError."""
    settings = Settings.from_env()
    observability.set_up_logging("web", settings.log_level)
    return create_app(wiring.build(settings).services)


def create_app(services: Services, stopping: threading.Event | None = None) -> Flask:
    """The application on these services. Setting `stopping` ends its open streams within seconds."""
    app = Flask("web", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # what Flask's own provider has
    app.url_map.merge_slashes = False
    app.extensions["millrace"] = _process(services, stopping or threading.Event())
    if services.settings.trusted_proxies:
        hops = services.settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    _close_connection_after_request(app, services)
    access_log.install(app, services)
    metrics.install(app)
    auth.install(app)
    errors.install(app)
    app.after_request(_harden)
    _register(app, services)
    console.install(app, services.settings)
    return app


def _process(services: Services, stopping: threading.Event) -> wire.Process:
    # What waits holds a thread each, so a part of the threads stays for requests that do not wait.
    threads = services.settings.web_threads
    waiting = max(1, threads * 3 // 4)
    return wire.Process(
        services=services,
        waiting=Seats("sync executions waiting", max(1, waiting // 4), waiting),
        # Anybody may take these; half of the workspace's own share stays for callers whom it knows.
        open_hooks=Seats("calls of hooks without auth waiting", max(1, waiting // 8), waiting),
        tails=Seats("live log streams", max(1, threads // 8), max(1, threads // 4 - 1)),
        probes=Probes(),
        checker=Checker(),
        stopping=stopping,
    )


def _register(app: Flask, services: Services) -> None:
    """Every blueprint with whoever may use it."""
    for blueprint in _API:
        app.register_blueprint(blueprint)
        auth.state(app, blueprint.name, auth.api_key)
    pages = docs.blueprint(lambda: openapi.document(app, _API))
    # A hook's own trigger says how its callers prove who they are.
    for open_to_all in (health.blueprint, metrics.blueprint, pages, hooks.blueprint(services)):
        app.register_blueprint(open_to_all)
        auth.state(app, open_to_all.name, auth.public)
    http_scripts = httpscripts.blueprint(services)
    app.register_blueprint(http_scripts)
    auth.state(app, http_scripts.name, httpscripts.member_or_key)


def _close_connection_after_request(app: Flask, services: Services) -> None:
    """The first query of a request opens a connection by itself; here it goes back to the pool."""

    def close(_error: BaseException | None) -> None:
        if not services.database.is_closed():
            services.database.close()

    app.teardown_request(close)


def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
