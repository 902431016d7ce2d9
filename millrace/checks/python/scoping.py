"""Scopes of a Python source: which names are bound where, and to what, as far as it shows."""

import ast
from dataclasses import dataclass, field
from typing import Literal

# The names that lead to something: ("os", "system"). What is built in begins with "builtins".
Path = tuple[str, ...]

Kind = Literal["module", "class", "function", "comprehension"]


@dataclass(slots=True, eq=False)
class Binding:
    """One place that gives a name its value."""

    node: ast.AST
    scope: "Scope"  # where its value is evaluated
    value: ast.expr | None = None  # what the name then stands for, when it shows
    path: Path | None = None  # the same for an import of what is no file of the project
    is_module: bool = False
    straight: bool = False  # every load of the module comes here, in the order of the source


@dataclass(slots=True, eq=False)
class Scope:
    """One region of names."""

    kind: Kind
    parent: "Scope | None" = None
    is_async: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    module_names: set[str] = field(default_factory=set)  # declared global
    outer_names: set[str] = field(default_factory=set)  # declared nonlocal
    stars: list[str] = field(default_factory=list)  # modules all of whose names are imported

    @property
    def module(self) -> "Scope":
        """The outermost scope."""
        here = self
        while here.parent is not None:
            here = here.parent
        return here

    def bind(self, name: str, binding: Binding) -> None:
        """Give a name a value, where the declarations of this scope say."""
        home = self
        if name in self.module_names:
            home = self.module
        elif name in self.outer_names:
            home = (self.parent and self.parent.home(name)) or self
        binding.straight = binding.straight and home is self
        home.bindings.setdefault(name, []).append(binding)

    def home(self, name: str) -> "Scope | None":
        """The scope that binds a name as seen from here; None when none does, so that it is built in or nothing."""
        here: Scope | None = self
        while here is not None:
            if name in here.module_names:
                here = here.module
                return here if name in here.bindings else None
            # The names of a class body are not seen by the functions in it.
            if name in here.bindings and (here.kind != "class" or here is self):
                return here
            here = here.parent
        return None
