"""What Python's compiler refuses in a tree that parses: statements and expressions that may not stand where they do."""

import ast
import itertools

from millrace.checks import wording
from millrace.checks.python.report import Report
from millrace.checks.python.scoping import Scope
from millrace.checks.python.survey import Placed, Survey


def check(report: Report, tree: ast.Module, survey: Survey) -> None:
    """Report each that stands in a wrong place."""
    for each in survey.placed:
        message = _problem(each)
        if message is not None:
            report.add(each.node, "syntax", message)
    early = _first_imports(tree)
    for imported in survey.imports:
        statement = imported.statement
        if getattr(statement, "module", "") == "__future__" and statement not in early:
            report.add(statement, "syntax", "'from __future__' must stand at the beginning of the file.")


def _first_imports(tree: ast.Module) -> set[ast.stmt]:
    """The statements at the beginning, after a docstring, where a file may say what it wants of the future."""
    body = tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body
    return set(itertools.takewhile(lambda each: getattr(each, "module", "") == "__future__", body))


def _problem(placed: Placed) -> str | None:
    node, scope = placed.node, placed.scope
    if isinstance(node, ast.Break | ast.Continue):
        word = "break" if isinstance(node, ast.Break) else "continue"
        return None if placed.in_loop else f"'{word}' stands outside of a loop."
    if isinstance(node, ast.Return):
        return None if scope.kind == "function" else "'return' stands outside of a function."
    if isinstance(node, ast.Yield | ast.YieldFrom):
        return _yield_problem(node, scope)
    if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
        return _async_problem(node, scope)
    if isinstance(node, ast.Try):
        early = any(handler.type is None for handler in node.handlers[:-1])
        return "'except:' without a type must be the last one of its try." if early else None
    if isinstance(node, ast.Call):
        return _keyword_problem(node)
    many = sum(isinstance(part, ast.Starred) for part in node.elts) > 1
    return "An assignment takes one starred name at the most." if many else None


def _yield_problem(node: ast.Yield | ast.YieldFrom, scope: Scope) -> str | None:
    if scope.kind in ("module", "class"):
        return "'yield' stands outside of a function."
    if isinstance(node, ast.YieldFrom) and scope.is_async:
        return "'yield from' cannot stand in an async function: write async for."
    return None


def _async_problem(node: ast.Await | ast.AsyncFor | ast.AsyncWith, scope: Scope) -> str | None:
    # A comprehension may be an asynchronous one wherever it stands, as long as nothing goes through it.
    if scope.is_async or scope.kind == "comprehension":
        return None
    words = {ast.Await: "await", ast.AsyncFor: "async for", ast.AsyncWith: "async with"}
    return f"'{words[type(node)]}' is only valid in an async function: write async def."


def _keyword_problem(node: ast.Call) -> str | None:
    seen: set[str] = set()
    for keyword in node.keywords:
        if keyword.arg in seen:
            return f"The argument '{wording.show(keyword.arg.encode())}' stands twice in one call."
        if keyword.arg is not None:
            seen.add(keyword.arg)
    return None
