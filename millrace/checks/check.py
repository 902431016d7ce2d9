"""The check of one source, by its language."""

from collections.abc import Collection

from millrace import languages
from millrace.checks import javascript, python
from millrace.checks.findings import Finding, Positions
from millrace.checks.source import entry_name, text_problem
from millrace.languages import LanguageName


def check_source(
    source: bytes,
    *,
    runtime: str,
    entry_point: str,
    modules: frozenset[str],
    files: Collection[str] = (),
    path: str | None = None,
    language: LanguageName = "javascript",
) -> list[Finding]:
    """What is wrong with a script, in the order of the source; at most `MAX_FINDINGS`, the first ones.

    `modules` are the libraries and the modules of the language itself that the runtime named `runtime` offers, by
    the names that a script loads them with. `files` are the other files of the project, and `path` is the place of
    this one among them; a single-file script has none. A source that does not parse has one finding: where it stops.
    An entry point is refused only when the source certainly does not have it. Raises `errors.Invalid` when
    `entry_point` cannot name one.
    """
    name = entry_name(entry_point, language)
    problem = text_problem(source)
    if problem is not None:
        at = Positions(source).at(problem[0])
        return [Finding(*at, "encoding", f"The source {problem[1]}.")]
    check = {"javascript": javascript.check, "python": python.check}[language]
    return check(
        source,
        runtime=runtime,
        entry_point=entry_point,
        name=name,
        modules=modules,
        files=files,
        path=languages.named(language).main if path is None else path,
    )
