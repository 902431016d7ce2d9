"""The check of one JavaScript source: its parts in order, and what each adds to the findings."""

import re
from collections.abc import Collection, Sequence
from typing import Protocol

from tree_sitter import Node, Tree

from millrace.checks.findings import MAX_FINDINGS, Finding, Positions
from millrace.checks.javascript import grammar, literals, syntax, templates
from millrace.checks.javascript.classes import Classes
from millrace.checks.javascript.constructs import Constructs
from millrace.checks.javascript.context import Context
from millrace.checks.javascript.exports import Exports
from millrace.checks.javascript.flow import Flow
from millrace.checks.javascript.grammar import Handler
from millrace.checks.javascript.literals import Literals
from millrace.checks.javascript.modules import Available
from millrace.checks.javascript.references import EXPORTS, Reference, References
from millrace.checks.javascript.scoping import Scoping
from millrace.checks.javascript.statements import Statements
from millrace.checks.javascript.targets import Targets

# A local that holds a local that holds a global: each step needs a walk of its own.
_MAX_WALKS = 4


_LONE_CR = re.compile(rb"\r(?!\n)")


class _Group(Protocol):
    enter: dict[str, Handler]
    leave: dict[str, Handler]


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
    """What is wrong with a CommonJS source that is text. `name` is what `entry_point` names."""
    positions = Positions(source)
    source = _LONE_CR.sub(b"\n", source)  # the grammar knows no other single end of a line
    tree = grammar.parse(source)
    if tree.root_node.has_error:
        source, tree = templates.readable(source, tree)
    context = Context(source, tree, MAX_FINDINGS)
    if tree.root_node.has_error:
        syntax.check(context, tree)
        return context.findings(positions)
    constructs = Constructs(context, Available(runtime, modules, files, path))
    references = _walk_all(context, tree, constructs)
    literals.check_invisible(context, tree.root_node)
    exports, found = _follow(tree, references, name)
    constructs.check_members(references)
    constructs.check_references(found, references)
    missing = exports.problem(entry_point, name)
    if missing is not None and not context.has_syntax_errors:
        context.report(0, missing, "entry-point")
    return context.findings(positions)


def _walk_all(context: Context, tree: Tree, constructs: Constructs) -> References:
    """The first walk: everything that an engine refuses, forbidden properties, and uses of globals."""
    references = References(context)
    groups: list[_Group] = [
        Flow(context),
        Classes(context),
        Targets(context),
        Statements(context),
        Literals(context),
        constructs,
        references,
    ]
    _walk(context, tree.root_node, groups)
    return references


def _follow(tree: Tree, references: References, name: str) -> tuple[Exports, list[Reference]]:
    """Walk again where a local turned out to hold a global after the walk had passed it."""
    for _ in range(_MAX_WALKS):
        found = references.resolved()
        exports = Exports(references)
        exports.read(found)
        missing = exports.problem("", name) is not None
        wanted = references.wanted | exports.same_object if missing else references.wanted
        unseen = references.unseen() - (set() if missing else {EXPORTS})
        if wanted == references.wanted and not unseen:
            break
        again = Context(references.context.source, tree, 0)
        references = References(again, references.aliases | dict.fromkeys(wanted, EXPORTS), wanted)
        _walk(again, tree.root_node, [references])
    return exports, found


def _walk(context: Context, root: Node, groups: Sequence[_Group]) -> None:
    scoping = Scoping(context)
    scoping.start(root)
    around: list[_Group] = [scoping, *groups]
    enter = grammar.Table(group.enter for group in around)
    leave = grammar.Table(group.leave for group in reversed(around))
    grammar.walk(context.cursor, context.parents, enter, leave)
    scoping.finish()
