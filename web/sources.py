"""The checks of a source on its way in, for every face that takes one."""

from dataclasses import replace

from millrace import checks, languages, runtimes
from millrace.errors import Detail, Invalid
from millrace.models import Runtime
from web import wire

FIELD = "script_content"


def check(source: bytes, runtime: Runtime, entry_point: str, *, or_body: bool = False) -> None:
    """Raises Invalid with every finding, and TooMany when too many large sources are being checked.

    With `or_body` a source may be the body of a handler alone, see `languages.is_body`.
    """
    language = languages.of(runtime.name).name
    if or_body and languages.is_body(language, source):
        entry_point = languages.of(runtime.name).entry_point
        _check(languages.whole(runtime.name, source), runtime, entry_point, len(languages.BODY_START))
    else:
        _check(source, runtime, entry_point, 0)


def _check(source: bytes, runtime: Runtime, entry_point: str, before: int) -> None:
    """`before` is how many characters of the first line are not the author's."""
    language = languages.of(runtime.name).name
    findings = wire.process().checker.check(
        source, runtime=runtime.name, language=language, entry_point=checks.entry_name(entry_point, language),
        modules=runtimes.modules(runtime),
    )  # fmt: skip
    findings = [replace(each, column=max(1, each.column - before)) if each.line == 1 else each for each in findings]
    if not findings:
        return
    first = findings[0]
    more = f" ({len(findings) - 1} more in details)" if len(findings) > 1 else ""
    raise Invalid(
        f"{FIELD}, line {first.line}, column {first.column}: {first.message}{more}",
        details=[
            Detail("entry_point" if each.rule == "entry-point" else FIELD, each.message, line=each.line,
                   column=each.column, rule=each.rule)
            for each in findings
        ],
    )  # fmt: skip
