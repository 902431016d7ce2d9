"""The check of one Python source: its parts in order, and what each adds to the findings."""

from collections.abc import Collection

from millrace.checks.findings import Finding
from millrace.checks.python import forbidden, placement, syntax, text
from millrace.checks.python.constructs import Constructs
from millrace.checks.python.entry import Entry
from millrace.checks.python.modules import Available
from millrace.checks.python.report import Report
from millrace.checks.python.survey import Survey


def check(
    source: bytes,
    *,
    runtime: str,
    entry_point: str,
    name: str,
    modules: frozenset[str],
    files: Collection[str],
    path: str,
) -> list[Finding]:
    """What is wrong with a module that is text. `name` is what `entry_point` names."""
    report = Report(text.read(source))
    foreign = text.foreign_encoding(report.text)
    if foreign is not None:
        line, offset, encoding = foreign
        report.add((line, offset), "encoding", f"The source declares the encoding '{encoding}': it must be UTF-8.")
        return report.findings()
    tree = syntax.parse(report, runtime)
    if tree is None:
        return report.findings()
    available = Available(runtime, modules, files, path)
    survey = Survey(available.is_own, forbidden.WATCHED)
    survey.walk(tree)
    syntax.check_names(report, runtime)
    placement.check(report, tree, survey)
    constructs = Constructs(report, available)
    for each in survey.imports:
        constructs.check_import(each)
    for use in survey.uses:
        constructs.check_use(use)
    if path == "main.py":
        Entry(report, survey.module).check(name, entry_point, may_have_more=survey.has_hidden_names)
    return report.findings()
