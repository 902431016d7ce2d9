"""How a view answers: a whole page, or for HTMX one block of it; a redirect; a toast."""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, flash, redirect, render_template, request, session
from markupsafe import Markup
from werkzeug.urls import iri_to_uri

from millrace import jsontext
from millrace.paging import Position
from web import cursors
from web.console import assets, identity, languages, words
from web.console.languages import decimal
from web.console.languages import gettext as _
from web.console.sentences import translated

PAGE_SIZE = 20
MAX_DEPTH = 100
MAX_TOASTS = 5  # they travel in the cookie
# Monaco and charts set styles on elements; scripts come from here alone, and none stands in a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def install(app: Flask) -> None:
    """What every template may use."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        asset=assets.url, may=identity.may, signed_in=identity.current, csrf_token=identity.csrf_token,
        language=languages.chosen, languages=languages.LANGUAGES, when=when, status_word=words.status,
        trigger_word=words.trigger, is_fragment=wants_fragment, duration=duration, size=size, pretty=pretty,
        decimal=decimal, told=translated,
    )  # fmt: skip


def wants_fragment() -> bool:
    """Whether HTMX asks, and not for the history or a whole page."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and not (
        headers.get("HX-History-Restore-Request") == "true" or headers.get("HX-Boosted") == "true"
    )


def wants_json() -> bool:
    """Whether the client asks for JSON and not for a page."""
    best = request.accept_mimetypes.best_match(["text/html", "application/json"], "text/html")
    return best == "application/json"


def page(template: str, block: str = "content", status: int = HTTPStatus.OK, **values: Any) -> Response:
    """The template as a page, or for HTMX its block alone."""
    if not wants_fragment():
        return html(render_template(f"console/{template}", **values), status)
    return fragment(template, block, status, **values)


def fragment(template: str, block: str, status: int = HTTPStatus.OK, **values: Any) -> Response:
    """One block of a template."""
    found = current_app.jinja_env.get_template(f"console/{template}")
    current_app.update_template_context(values)
    context = found.new_context(values)
    # What stands above the blocks, the imports of macros, is done before the first piece of the page comes out.
    beginning = found.root_render_func(context)
    next(beginning, None)
    beginning.close()  # type: ignore[attr-defined]  # a generator, which Jinja calls an iterator
    return html("".join(context.blocks[block][0](context)), status)


def html(text: str, status: int = HTTPStatus.OK) -> Response:
    """HTML with the headers that all of it has."""
    answer = Response(text, status, mimetype="text/html")
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers.add("Vary", "HX-Request, Accept-Language")
    return answer


def go(address: str) -> Response:
    """To another page. HTMX goes there as well, instead of putting that page into this one."""
    if wants_fragment():
        return Response(status=HTTPStatus.NO_CONTENT, headers={"HX-Redirect": iri_to_uri(address)})
    return redirect(address, HTTPStatus.SEE_OTHER)  # type: ignore[return-value]  # as Flask's own class


def say(text: str, kind: str = "success") -> None:
    """A toast on the next page: success, error or info. Of those that no page has shown yet the last few are kept."""
    flash(text, kind)
    session["_flashes"] = session["_flashes"][-MAX_TOASTS:]


def toast(answer: Response, text: str, kind: str = "success") -> Response:
    """A toast with a fragment, now."""
    answer.headers["HX-Trigger"] = json.dumps({"toast": {"text": text, "kind": kind}})  # ASCII, as headers are
    return answer


def position(listing: str) -> Position | None:
    """Where the page that is asked for begins. Raises Invalid."""
    return cursors.decode(listing, request.args.get("cursor") or None)


def when(at_ms: int | None) -> Markup:
    """A moment: in UTC for a reader without scripts, which show it in the reader's own zone."""
    if at_ms is None:
        return Markup('<span class="muted">—</span>')
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def duration(ms: float | None) -> str:
    """Milliseconds as a person reads them: 12 ms, 3.4 s, 5 min 2 s."""
    if ms is None:
        return "—"
    if ms < 1000:
        return amount(f"{ms:.0f}", _("ms"))
    if ms < 60_000:
        return amount(f"{ms / 1000:.1f}", _("s"))
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    pair = ((hours, _("h")), (minutes, _("min"))) if hours else ((minutes, _("min")), (seconds, _("s")))
    return " ".join(amount(str(number), unit) for number, unit in pair)


def size(count: float | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return "—"
    if count < 1024:
        return amount(f"{count:.0f}", _("B"))
    units = (_("KB"), _("MB"), _("GB"), _("TB"))
    for unit in units:
        count /= 1024
        if count < 1024 or unit == units[-1]:
            break
    return amount(f"{count:.1f}", unit)


def amount(number: str, unit: str) -> str:
    """A number of a unit, both as people here write them."""
    return f"{decimal(number)} {unit}"


def pretty(text: str | None, limit: int = 200_000) -> str:
    """JSON text with indents, cut at a length that a browser shows at ease."""
    shown = text or ""
    try:
        value = json.loads(text or "null")
        if not jsontext.is_deeper(value, MAX_DEPTH):  # indents of what is nested without end take its square
            shown = json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):  # a handler may nest as deep as it likes
        pass
    return shown if len(shown) <= limit else shown[:limit] + "\n…"
