"""What the workspace used: charts of the last day, week or month, and its limits with what is taken of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from flask import Blueprint, Response, request

from millrace import limits, usage
from millrace.errors import Invalid
from millrace.limits import DAY_MS, Limits, Usage
from millrace.usage import Point
from web import wire
from web.console import charts, identity, pages
from web.console.charts import Chart
from web.console.languages import gettext as _
from web.console.languages import ngettext, said

blueprint = Blueprint("console_usage", __name__)


@dataclass(frozen=True)
class Range:
    """A choice of the page. `form` is how the browser writes the times below the charts, see console.js."""

    step: Literal["hour", "day"]
    count: int
    form: str


RANGES = {"24h": Range("hour", 24, "hour"), "7d": Range("hour", 7 * 24, "date"), "30d": Range("day", 30, "day")}


@blueprint.route("/usage")
@identity.needs("scripts.read")
def index() -> Response:
    """The page; for HTMX, which asks when another range is chosen, the figures alone."""
    name = request.args.get("range", "24h")
    if name not in RANGES:
        raise Invalid(said(_("Choose one of these ranges: %(ranges)s."), ranges=", ".join(RANGES)), field="range")
    values = _figures(RANGES[name]) | {"chosen": name, "ranges": _names(), "utc": _utc}
    if pages.wants_fragment():
        return pages.fragment("usage.html", "figures", **values)
    return pages.page("usage.html", limits=shown_limits(), **values)


def _names() -> dict[str, str]:
    return {"24h": _("24 hours"), "7d": _("7 days"), "30d": _("30 days")}


def _figures(wanted: Range) -> dict[str, Any]:
    services, workspace_id, now = wire.services(), wire.workspace().id, wire.services().clock()
    since = now - (wanted.count - 1) * usage.STEPS[wanted.step]
    since -= since % usage.STEPS[wanted.step]
    found = usage.figures(services, workspace_id, since, now + 1, wanted.step)
    points, whole = found.points, found.whole
    drawn = [_runs(points, whole, wanted), _durations(points, whole, wanted), _work(points, whole, wanted)]
    return {"range": wanted, "points": points, "whole": whole, "charts": drawn if whole.runs else []}


def _runs(points: Sequence[Point], whole: Point, wanted: Range) -> Chart:
    axis = charts.counts(max((each.runs for each in points), default=0))
    texts = [
        said(ngettext("%(time)s: %(runs)s execution, %(failed)s of them failed or timed out",
                      "%(time)s: %(runs)s executions, %(failed)s of them failed or timed out", each.runs),
             time=_time(each, wanted), runs=each.runs, failed=each.failed)
        for each in points
    ]  # fmt: skip
    stacks = [(each.runs - each.failed, each.failed) for each in points]
    return Chart(
        "runs", _("Executions"),
        said(ngettext("%(runs)s execution ended in this time, %(failed)s of them failed or timed out.",
                      "%(runs)s executions ended in this time, %(failed)s of them failed or timed out.", whole.runs),
             runs=whole.runs, failed=whole.failed),
        axis, len(points), _marks(points), charts.columns(stacks, texts, axis),
        legend=(_("Completed or cancelled"), _("Failed or timed out")), colours=(1, 2),
    )  # fmt: skip


def _durations(points: Sequence[Point], whole: Point, wanted: Range) -> Chart:
    axis = charts.times(max((each.p99_ms or 0 for each in points), default=0), _amount)
    texts = [
        said(_("%(time)s: half within %(p50)s, 99 %% within %(p99)s"), time=_time(each, wanted),
             p50=pages.duration(each.p50_ms), p99=pages.duration(each.p99_ms))
        for each in points
    ]  # fmt: skip
    lines = (charts.line([each.p50_ms for each in points], axis), charts.line([each.p99_ms for each in points], axis))
    return Chart(
        "durations", _("Duration"),
        said(_("Half of the executions took %(p50)s or less, 99 %% of them %(p99)s or less."),
             p50=pages.duration(whole.p50_ms), p99=pages.duration(whole.p99_ms)),
        axis, len(points), _marks(points), charts.columns([()] * len(points), texts, axis), lines=lines,
        legend=(_("p50"), _("p99")), colours=(3, 4),
    )  # fmt: skip


def _work(points: Sequence[Point], whole: Point, wanted: Range) -> Chart:
    spent = [each.worker_seconds * 1000 for each in points]
    axis = charts.times(max(spent, default=0), _amount)
    texts = [
        said(_("%(time)s: %(spent)s of worker time"), time=_time(each, wanted), spent=pages.duration(ms))
        for each, ms in zip(points, spent, strict=True)
    ]
    return Chart(
        "work", _("Worker time"),
        said(_("Workers spent %(spent)s on executions in this time, with all their attempts."),
             spent=pages.duration(whole.worker_seconds * 1000)),
        axis, len(points), _marks(points), charts.columns([(ms,) for ms in spent], texts, axis), colours=(3,),
    )  # fmt: skip


def _amount(number: float, unit: str) -> str:
    return pages.amount(f"{number:g}", _(unit))


def _time(point: Point, wanted: Range) -> str:
    return _utc(point.at, "%Y-%m-%d" if wanted.step == "day" else "%Y-%m-%d %H:%M UTC")


def _utc(at_ms: int, form: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def _marks(points: Sequence[Point]) -> tuple[charts.Mark, ...]:
    return charts.marks([each.at for each in points])


@dataclass(frozen=True)
class ShownLimits:
    """The workspace's limits, and what is used of them."""

    most: Limits
    used: Usage
    stored_mb: float | None
    resets_at: int

    @staticmethod
    def share(used: float | None, most: int | None) -> int | None:
        """How many percent are used; None when there is no limit, or nothing was measured."""
        return None if most is None or used is None else min(100, round(100 * used / most))


def shown_limits() -> ShownLimits:
    """Those of the workspace that the page is about."""
    workspace_id, services = wire.workspace().id, wire.services()
    used = limits.usage(services, workspace_id)
    stored_mb = None if used.stored_bytes is None else used.stored_bytes / limits.MB
    return ShownLimits(limits.of(workspace_id), used, stored_mb, limits.day_of(services.clock()) + DAY_MS)
