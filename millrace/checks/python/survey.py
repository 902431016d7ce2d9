"""One walk over a Python tree: its scopes and bindings, its imports, and the expressions that the checks look at.

The walk keeps a stack of its own, as a source may nest deeper than Python calls itself.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from millrace.checks.python.scoping import Binding, Kind, Path, Scope

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Who catches one of these may try to import what is not there.
_CATCHES = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")

# What a source needs to bind names of its module that do not show, besides a module's own dictionary.
_BINDERS = ("exec", "globals", "locals", "setattr", "vars")

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands."""

    scope: Scope
    straight: bool = True  # see `Binding`
    optional: bool = False  # an import may fail here
    in_loop: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """An expression to look at."""

    node: ast.expr
    parent: ast.AST
    scope: Scope


Misplaceable = (
    ast.Break
    | ast.Continue
    | ast.Return
    | ast.Yield
    | ast.YieldFrom
    | ast.Await
    | ast.AsyncFor
    | ast.AsyncWith
    | ast.Try
    | ast.Call
    | ast.Tuple
    | ast.List
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A node that may not stand everywhere."""

    node: Misplaceable
    scope: Scope
    in_loop: bool


@dataclass(frozen=True, slots=True)
class Import:
    """One name of an import statement: `import module`, or `from module import name`."""

    alias: ast.alias
    statement: ast.Import | ast.ImportFrom
    place: Place


@dataclass
class Survey:
    """What the walk found, in the order of the source."""

    is_own: Callable[[str], bool]  # whether a module is a file of the project
    watched: frozenset[str]  # names and attributes to collect uses of
    module: Scope = field(default_factory=lambda: Scope("module"))
    imports: list[Import] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    has_hidden_names: bool = False  # perhaps: it asks for the means to bind names that it works out

    def __post_init__(self) -> None:
        self._stack: list[tuple[ast.AST, ast.AST, Place]] = []
        self._enter: dict[type[ast.AST], Callable[[Any, ast.AST, Place], None]] = {
            **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef), self._function),
            ast.Lambda: self._lambda,
            ast.ClassDef: self._class,
            **dict.fromkeys(_COMPREHENSIONS, self._comprehension),
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Call: self._call,
            ast.Subscript: self._subscript,
            ast.Import: self._import,
            ast.ImportFrom: self._import_from,
            ast.Global: self._global,
            ast.Nonlocal: self._nonlocal,
            ast.Assign: self._assign,
            ast.AnnAssign: self._annotated,
            ast.NamedExpr: self._walrus,
            ast.ExceptHandler: self._named,
            ast.MatchAs: self._named,
            ast.MatchStar: self._named,
            ast.MatchMapping: self._mapping,
            **dict.fromkeys((ast.Try, ast.TryStar), self._try),
            **dict.fromkeys((ast.With, ast.AsyncWith), self._with),
            **dict.fromkeys((ast.If, ast.Match), self._branch),
            **dict.fromkeys((ast.For, ast.AsyncFor, ast.While), self._loop),
            **dict.fromkeys((ast.Break, ast.Continue, ast.Return, ast.Yield, ast.YieldFrom, ast.Await), self._once),
            **dict.fromkeys((ast.Tuple, ast.List), self._sequence),
        }

    def walk(self, tree: ast.Module) -> None:
        """Go through the whole tree."""
        self._push(tree.body, tree, Place(self.module))
        while self._stack:
            node, parent, place = self._stack.pop()
            enter = self._enter.get(type(node), self._children)
            enter(node, parent, place)

    def _push(self, nodes: Sequence[ast.AST | None], parent: ast.AST, place: Place) -> None:
        self._stack += [(node, parent, place) for node in reversed(nodes) if node is not None]

    def _children(self, node: ast.AST, parent: ast.AST, place: Place) -> None:
        self._push(list(ast.iter_child_nodes(node)), node, place)

    def _bind(self, name: str, node: ast.AST, place: Place, value: ast.expr | None = None) -> None:
        place.scope.bind(name, Binding(node, place.scope, value, straight=self._is_straight(place)))

    def _is_straight(self, place: Place) -> bool:
        return place.straight and place.scope is self.module

    # functions and classes

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, parent: ast.AST, place: Place) -> None:
        self._bind(node.name, node, place)
        inner = self._open(node, place, "function")
        self._signature(node, place, inner)
        self._push(node.body, node, inner)

    def _lambda(self, node: ast.Lambda, parent: ast.AST, place: Place) -> None:
        inner = self._open(node, place, "function")
        self._signature(node, place, inner)
        self._push([node.body], node, inner)

    def _signature(self, node: _Function, place: Place, inner: Place) -> None:
        """Parameters are names of the function; the rest of its head belongs to what is around it."""
        given = node.args
        parameters = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
        present = [each for each in parameters if each is not None]
        for each in present:
            self._bind(each.arg, each, inner)
        head: list[ast.AST | None] = [*given.defaults, *given.kw_defaults, *(each.annotation for each in present)]
        if not isinstance(node, ast.Lambda):
            head += [*node.decorator_list, node.returns]
        self._push(head, node, place)

    def _class(self, node: ast.ClassDef, parent: ast.AST, place: Place) -> None:
        self._bind(node.name, node, place)
        inner = self._open(node, place, "class")
        self._push([*node.decorator_list, *node.bases, *node.keywords], node, place)
        self._push(node.body, node, inner)

    def _open(self, node: ast.AST, place: Place, kind: Kind) -> Place:
        """The place within a scope of its own. Type parameters (3.12) are names of it."""
        scope = Scope(kind, place.scope, is_async=isinstance(node, ast.AsyncFunctionDef))
        inner = replace(place, scope=scope, in_loop=False)
        for each in getattr(node, "type_params", ()):
            self._bind(each.name, each, inner)
            self._children(each, node, inner)
        return inner

    def _comprehension(self, node: ast.expr, parent: ast.AST, place: Place) -> None:
        self._children(node, parent, replace(place, scope=Scope("comprehension", place.scope)))

    # names

    def _name(self, node: ast.Name, parent: ast.AST, place: Place) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id, node, place)
            return
        self.has_hidden_names |= node.id in _BINDERS
        if node.id in self.watched and isinstance(node.ctx, ast.Load):
            self.uses.append(Use(node, parent, place.scope))

    def _attribute(self, node: ast.Attribute, parent: ast.AST, place: Place) -> None:
        self.has_hidden_names |= node.attr in ("__dict__", "modules")
        if node.attr in self.watched and isinstance(node.ctx, ast.Load):
            self.uses.append(Use(node, parent, place.scope))
        self._children(node, parent, place)

    def _call(self, node: ast.Call, parent: ast.AST, place: Place) -> None:
        if len(node.keywords) > 1:
            self._put(node, place)
        if node.args or node.keywords:
            self.uses.append(Use(node, parent, place.scope))
        self._children(node, parent, place)

    def _subscript(self, node: ast.Subscript, parent: ast.AST, place: Place) -> None:
        if isinstance(node.ctx, ast.Load) and not isinstance(node.slice, ast.Slice | ast.Tuple):
            self.uses.append(Use(node, parent, place.scope))
        self._children(node, parent, place)

    def _global(self, node: ast.Global, parent: ast.AST, place: Place) -> None:
        if place.scope is not self.module:
            place.scope.module_names.update(node.names)

    def _nonlocal(self, node: ast.Nonlocal, parent: ast.AST, place: Place) -> None:
        place.scope.outer_names.update(node.names)

    def _assign(self, node: ast.Assign, parent: ast.AST, place: Place) -> None:
        rest: list[ast.expr] = []
        for target in node.targets:
            if isinstance(target, ast.Tuple | ast.List):
                self._put(target, place)
            for part, value in _pairs(target, node.value):
                if isinstance(part, ast.Name):
                    self._bind(part.id, node, place, value)
                else:
                    rest.append(part)
        self._push([*rest, node.value], node, place)

    def _annotated(self, node: ast.AnnAssign, parent: ast.AST, place: Place) -> None:
        """Without a value it binds nothing in a module, and makes the name a local one in a function."""
        if not isinstance(node.target, ast.Name):
            self._push([node.target], node, place)
        elif node.value is not None or place.scope is not self.module:
            self._bind(node.target.id, node, place, node.value)
        self._push([node.annotation, node.value], node, place)

    def _walrus(self, node: ast.NamedExpr, parent: ast.AST, place: Place) -> None:
        """It binds in what is around a comprehension, and is not always reached."""
        scope = place.scope
        while scope.kind == "comprehension" and scope.parent is not None:
            scope = scope.parent
        scope.bind(node.target.id, Binding(node, place.scope, node.value))
        self._push([node.value], node, place)

    def _named(self, node: ast.ExceptHandler | ast.MatchAs | ast.MatchStar, parent: ast.AST, place: Place) -> None:
        if node.name is not None:
            self._bind(node.name, node, place)
        self._children(node, parent, place)

    def _mapping(self, node: ast.MatchMapping, parent: ast.AST, place: Place) -> None:
        if node.rest is not None:
            self._bind(node.rest, node, place)
        self._children(node, parent, place)

    # imports

    def _import(self, node: ast.Import, parent: ast.AST, place: Place) -> None:
        for alias in node.names:
            self.imports.append(Import(alias, node, place))
            parts = tuple(alias.name.split("."))
            path = parts if alias.asname else parts[:1]
            self._bind_import(alias.asname or parts[0], alias, place, path, is_module=True)

    def _import_from(self, node: ast.ImportFrom, parent: ast.AST, place: Place) -> None:
        parts = tuple((node.module or "").split("."))
        for alias in node.names:
            self.imports.append(Import(alias, node, place))
            if alias.name == "*":
                place.scope.stars.append("" if node.level or self.is_own(parts[0]) else ".".join(parts))
            else:
                path = None if node.level else (*parts, alias.name)
                self._bind_import(alias.asname or alias.name, alias, place, path)

    def _bind_import(
        self, name: str, alias: ast.alias, place: Place, path: Path | None, *, is_module: bool = False
    ) -> None:
        known = None if path is None or self.is_own(path[0]) else path
        straight = self._is_straight(place)
        place.scope.bind(name, Binding(alias, place.scope, path=known, is_module=is_module, straight=straight))

    # what is not always reached

    def _branch(self, node: ast.AST, parent: ast.AST, place: Place) -> None:
        if isinstance(node, ast.If) and _asks_for_types(node.test):
            self._push(node.orelse, node, replace(place, straight=False))
            self._push(node.body, node, replace(place, straight=False, optional=True))
            self._push([node.test], node, place)
        else:
            self._children(node, parent, replace(place, straight=False))

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, parent: ast.AST, place: Place) -> None:
        if isinstance(node, ast.AsyncFor):
            self._put(node, place)
        inner = replace(place, straight=False)
        head = [node.test] if isinstance(node, ast.While) else [node.target, node.iter]
        self._push(node.orelse, node, inner)
        self._push(node.body, node, replace(inner, in_loop=True))
        self._push(head, node, place)

    # what may not stand everywhere

    def _put(self, node: Misplaceable, place: Place) -> None:
        self.placed.append(Placed(node, place.scope, place.in_loop))

    def _once(self, node: Misplaceable, parent: ast.AST, place: Place) -> None:
        self._put(node, place)
        self._children(node, parent, place)

    def _sequence(self, node: ast.Tuple | ast.List, parent: ast.AST, place: Place) -> None:
        if isinstance(node.ctx, ast.Store):
            self._put(node, place)
        self._children(node, parent, place)

    def _try(self, node: ast.Try | ast.TryStar, parent: ast.AST, place: Place) -> None:
        if isinstance(node, ast.Try) and len(node.handlers) > 1:
            self._put(node, place)
        inner = replace(place, straight=False)
        optional = place.optional or any(map(_catches_import, node.handlers))
        self._push(node.finalbody, node, place)
        self._push([*node.handlers, *node.orelse], node, inner)
        self._push(node.body, node, replace(inner, optional=optional))

    def _with(self, node: ast.With | ast.AsyncWith, parent: ast.AST, place: Place) -> None:
        managers = [item.context_expr for item in node.items]
        hides = any(map(_suppresses_import, managers))
        if isinstance(node, ast.AsyncWith):
            self._put(node, place)
        self._push(node.body, node, replace(place, straight=False, optional=place.optional or hides))
        self._push(node.items, node, place)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """The parts of an assignment's target, each with its value when it shows."""
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, value
        return
    parts: Sequence[ast.expr | None] = [None] * len(target.elts)
    if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
        starred = any(isinstance(each, ast.Starred) for each in (*target.elts, *value.elts))
        parts = parts if starred else value.elts
    yield from zip(target.elts, parts, strict=True)


def _asks_for_types(test: ast.expr) -> bool:
    """`if TYPE_CHECKING:`, which no run enters."""
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _catches_import(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    listed = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return caught is None or any(isinstance(each, ast.Name) and each.id in _CATCHES for each in listed)


def _suppresses_import(manager: ast.expr) -> bool:
    """`with suppress(ImportError):`"""
    return isinstance(manager, ast.Call) and any(
        isinstance(each, ast.Name) and each.id in _CATCHES for each in manager.args
    )
