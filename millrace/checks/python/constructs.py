"""Forbidden constructs: code from text, processes, frames and other ways into the interpreter, the module loader."""

import ast
from collections.abc import Callable

from millrace.checks import wording
from millrace.checks.python import forbidden
from millrace.checks.python.modules import FORBIDDEN, Available
from millrace.checks.python.references import References
from millrace.checks.python.report import Place, Report
from millrace.checks.python.scoping import Path
from millrace.checks.python.survey import Import, Use

_IMPORT_MODULE: Path = ("importlib", "import_module")
_IMPORTERS: tuple[Path, ...] = (_IMPORT_MODULE, ("builtins", "__import__"))
_MAKERS: tuple[Path, ...] = (("types", "CodeType"), ("types", "FunctionType"))
_MODULES: Path = ("sys", "modules")
# To take one of these from its module says nothing yet.
_LENIENT = {_IMPORT_MODULE, _MODULES, *_MAKERS}
_NOT_WORKED_OUT = "a name that a run works out may not be on offer"


class Constructs:
    """Reports forbidden uses, and imports of what is forbidden or not available."""

    def __init__(self, report: Report, available: Available) -> None:
        self.report = report
        self.available = available
        self.references = References()

    def check_import(self, each: Import) -> None:
        """Report a module that is not available, or a forbidden part of one that is."""
        statement, name = each.statement, each.alias.name
        if isinstance(statement, ast.Import):
            path, problem = tuple(name.split(".")), self.available.problem(name)
        else:
            module = statement.module or ""
            path = (*module.split("."), name)
            if statement.level:
                problem = self.available.relative_problem(statement.level, module, name)
            else:
                problem = self.available.problem(module, name)
        if problem is None:
            if not getattr(statement, "level", 0):
                self._check_taken(each.alias, path)
        elif not each.place.optional or path[0] in FORBIDDEN:
            self.report.add(each.alias if isinstance(statement, ast.Import) else statement, *problem)

    def _check_taken(self, alias: ast.alias, path: Path) -> None:
        found = _forbidden(path)
        if found is not None and found not in _LENIENT and not self.available.is_own(path[0]):
            self._refuse(alias, found, ".".join(path))

    def check_use(self, use: Use) -> None:
        """Report an expression that leads to what is forbidden."""
        node, path = use.node, self.references.path(use.node, use.scope)
        found = _forbidden(path)
        if isinstance(node, ast.Call):
            self._check_call(node, use)
        if found is not None and not self._is_harmless(use, found):
            self._refuse(node, found, lambda: self.report.show(node))
        elif isinstance(node, ast.Attribute) and node.attr in forbidden.ATTRIBUTES:
            self._refuse_attribute(node, node.attr)
        elif path == ("builtins",) and (isinstance(node, ast.Subscript) or _is_builtins(node)):
            self._refuse_attribute(node, "__builtins__")

    def _is_harmless(self, use: Use, found: Path) -> bool:
        node, parent = use.node, use.parent
        if found in _MAKERS:
            return True  # unless called: it may be compared with
        if found in _IMPORTERS:
            is_called = isinstance(parent, ast.Call) and parent.func is node
            is_renamed = isinstance(parent, ast.Assign) and found == _IMPORT_MODULE
            return is_called or is_renamed
        if found == _MODULES:
            key = parent.slice if isinstance(parent, ast.Subscript) else None
            return isinstance(parent, ast.Compare) or (isinstance(key, ast.Name) and key.id == "__name__")
        if not isinstance(node, ast.Name):
            return False
        # Where a name got its value is the place to report, which may be here: `eval = eval`.
        home = use.scope.home(node.id)
        return home is not None and all(each.value is not node for each in home.bindings[node.id])

    def _check_call(self, node: ast.Call, use: Use) -> None:
        called = self.references.path(node.func, use.scope)
        if called in _IMPORTERS:
            self._check_import_call(node, called, use)
        elif called in _MAKERS:
            self._refuse(node, called, lambda: self.report.show(node.func))
        elif called == ("builtins", "getattr") and len(node.args) > 1:
            name = self.references.text(node.args[1], use.scope)
            if name in forbidden.ATTRIBUTES:
                self._refuse_attribute(node, name)

    def _check_import_call(self, node: ast.Call, called: Path, use: Use) -> None:
        """A module that is imported by a call: `importlib.import_module('json')`."""
        named = [each.value for each in node.keywords if each.arg == "name"]
        name = self.references.text(next(iter([*node.args, *named]), None), use.scope)
        if name is None:
            example = "import_module('json')" if called == _IMPORT_MODULE else "import json"
            word = called[-1]
            self._add(node, lambda: f"'{word}' needs the name of a module here, as in {example}: {_NOT_WORKED_OUT}.")
            return
        problem = None if name.startswith(".") else self.available.problem(name)
        if problem is not None:
            self.report.add(node, *problem)
        elif called != _IMPORT_MODULE:
            shown = wording.show(name.encode("utf-8", "replace"))
            self._add(node, lambda: f"'__import__' is forbidden: write import {shown}.")

    def _refuse(self, where: Place, found: Path, shown: str | Callable[[], str]) -> None:
        self._add(where, lambda: _sentence(found, shown if isinstance(shown, str) else shown()))

    def _refuse_attribute(self, where: Place, name: str | None) -> None:
        self._add(where, f"'{name}' is forbidden: {forbidden.INTERPRETER}.")

    def _add(self, where: Place, message: str | Callable[[], str]) -> None:
        self.report.add(where, "forbidden-construct", message)


def _is_builtins(node: ast.expr) -> bool:
    """Whether it is the name that each module has for what is built in, and not an import of that."""
    return isinstance(node, ast.Name) and node.id == "__builtins__"


def _forbidden(path: Path | None) -> Path | None:
    """The forbidden thing that a path leads to, or through."""
    for length in range(2, len(path or ()) + 1):
        if path is not None and path[:length] in forbidden.PATHS:
            return path[:length]
    return None


def _sentence(found: Path, shown: str) -> str:
    """The thing by its own name, and by the one that the source has for it."""
    name = ".".join(found).removeprefix("builtins.")
    here = "" if shown == name else f" (here '{shown}')"
    return f"'{name}'{here} is forbidden: {forbidden.PATHS[found]}."
