"""What the names and expressions of a source lead to: `s` to `os.system` after `from os import system as s`.

Followed only as far as it is certain: a name with values that differ, or with one that does not show, leads nowhere.
"""

import ast
import builtins
import sys
from typing import Final

from millrace.checks.python import constants
from millrace.checks.python.scoping import Binding, Path, Scope

BUILT_IN: Final = frozenset(dir(builtins)) | {"__builtins__", "__loader__"}

_MAX_STEPS = 8  # from a name to another name, or to a part of an expression
_MAX_BINDINGS = 8
_LONGEST = 6
_BUILTINS: Path = ("builtins",)
# Whatever module of the standard library has one of these has it by importing it.
_PASSED_ON = frozenset(("builtins", "importlib", "os", "subprocess", "sys"))
_READERS = ("__getattribute__", "__getattr__")
_LOOKUPS = ("get", "pop", "setdefault", "__getitem__")
_NAMESPACES = tuple(("builtins", name) for name in ("globals", "locals", "vars"))


class References:
    """Answers for one source, once its scopes are known."""

    def __init__(self) -> None:
        self._known: dict[tuple[Scope, str], Path | None] = {}
        self._texts: dict[tuple[Scope, str], str | None] = {}
        # By the steps that were left, too: who comes from far away sees less.
        self._paths: dict[tuple[ast.expr, int], Path | None] = {}

    def path(self, node: ast.expr | None, scope: Scope, steps: int = _MAX_STEPS) -> Path | None:
        """Where an expression leads; None when that is not certain."""
        if steps <= 0 or node is None:
            return None
        if isinstance(node, ast.Name):
            return self._name(node.id, scope, steps)
        key = (node, steps)
        if key not in self._paths:
            self._paths[key] = self._expression(node, scope, steps - 1)
        return self._paths[key]

    def _expression(self, node: ast.expr, scope: Scope, steps: int) -> Path | None:
        if isinstance(node, ast.Attribute) and node.attr != "__dict__":  # see `_namespace`
            return _member(self.path(node.value, scope, steps), node.attr)
        if isinstance(node, ast.Subscript):
            return self._item(node.value, node.slice, scope, steps)
        if isinstance(node, ast.Call):
            return self._call(node, scope, steps)
        if isinstance(node, ast.NamedExpr):
            return self.path(node.value, scope, steps)
        return None

    def text(self, node: ast.expr | None, scope: Scope, steps: int = _MAX_STEPS) -> str | None:
        """The constant string that an expression is; None when it is none, or not for certain."""
        return None if node is None else constants.text(node, lambda name: self._text_of(name.id, scope, steps - 1))

    def _text_of(self, name: str, scope: Scope, steps: int) -> str | None:
        home = scope.home(name)
        if home is None or steps <= 0:
            return None
        if (home, name) not in self._texts:
            self._texts[home, name] = None  # what depends on itself is no constant
            bindings = home.bindings[name]
            if len(bindings) == 1:
                self._texts[home, name] = self.text(bindings[0].value, bindings[0].scope, steps)
        return self._texts[home, name]

    def _name(self, name: str, scope: Scope, steps: int) -> Path | None:
        home = scope.home(name)
        if home is None:
            return _unbound(name, scope.module)
        key = (home, name)
        if key not in self._known:
            # While its own value is looked at, as in `eval = eval`, the name is still what it was before.
            self._known[key] = None if home.kind == "function" else _unbound(name, home.module)
            self._known[key] = self._bound(home.bindings[name], steps)
        return self._known[key]

    def _bound(self, bindings: list[Binding], steps: int) -> Path | None:
        if len(bindings) > _MAX_BINDINGS:
            return None
        paths = {each.path or self.path(each.value, each.scope, steps - 1) for each in bindings}
        return paths.pop() if len(paths) == 1 else None

    def _item(self, held: ast.expr, key: ast.expr, scope: Scope, steps: int) -> Path | None:
        """What `held[key]` is."""
        name = self.text(key, scope, steps)
        if name is None:
            return None
        if self._is_own_namespace(held, scope, steps):
            return self._name(name, scope.module, steps)
        path = self.path(held, scope, steps)
        if path == ("sys", "modules"):
            return tuple(name.split("."))
        # The builtins of a module are either the module or its dictionary.
        return _member(_BUILTINS if path == _BUILTINS else self._namespace(held, scope, steps), name)

    def _namespace(self, node: ast.expr, scope: Scope, steps: int) -> Path | None:
        """What has the names that a mapping holds: `os` for `os.__dict__` and for `vars(os)`."""
        if isinstance(node, ast.Attribute) and node.attr == "__dict__":
            return self.path(node.value, scope, steps)
        if isinstance(node, ast.Call) and len(node.args) == 1:
            reads = self.path(node.func, scope, steps) == ("builtins", "vars")
            return self.path(node.args[0], scope, steps) if reads else None
        return None

    def _is_own_namespace(self, node: ast.expr, scope: Scope, steps: int) -> bool:
        return isinstance(node, ast.Call) and not node.args and self.path(node.func, scope, steps) in _NAMESPACES

    def _call(self, node: ast.Call, scope: Scope, steps: int) -> Path | None:
        """What a call gives that reads a name given as text, or imports a module."""
        called = self.path(node.func, scope, steps)
        if called == ("builtins", "getattr") and len(node.args) > 1:
            return _member(self.path(node.args[0], scope, steps), self.text(node.args[1], scope, steps))
        if not node.args:
            return None
        if called in (("builtins", "__import__"), ("importlib", "import_module")):
            name = self.text(node.args[0], scope, steps)
            parts = tuple(name.split(".")) if name else None
            return parts[:1] if parts and called == ("builtins", "__import__") else parts
        if isinstance(node.func, ast.Attribute) and node.func.attr in _LOOKUPS:
            return self._item(node.func.value, node.args[0], scope, steps)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _READERS:
            return _member(self.path(node.func.value, scope, steps), self.text(node.args[0], scope, steps))
        return None


def _unbound(name: str, module: Scope) -> Path | None:
    """Where a name leads that the source does not bind, unless an import of all names may bring it."""
    if name in BUILT_IN and (name.startswith("__") or not module.stars):
        return _BUILTINS if name == "__builtins__" else ("builtins", name)
    return (*module.stars[0].split("."), name) if len(module.stars) == 1 and module.stars[0] else None


def _member(path: Path | None, name: str | None) -> Path | None:
    if path is None or name is None or len(path) >= _LONGEST:
        return None
    if name == "__self__" and path[0] == "builtins" and len(path) == 2:
        return _BUILTINS  # what a built-in function is a method of
    plain = name.lstrip("_")
    if plain in _PASSED_ON and path[0] in sys.stdlib_module_names and not name.startswith("__"):
        return (plain,)
    return (*path, name)
