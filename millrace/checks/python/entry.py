"""The entry point: whether the source defines it, and whether it can be called with a payload and a context."""

import ast
import difflib

from millrace.checks import wording
from millrace.checks.python.report import Place, Report
from millrace.checks.python.scoping import Binding, Scope

_SHOWN = 20
_MAX_STEPS = 8  # of a = b, b = c
_GIVEN = 2  # payload and context
# What is never a function, in the words of a message.
_NO_FUNCTION: dict[type[ast.expr], str] = {
    **dict.fromkeys((ast.Dict, ast.DictComp), "a dict"),
    **dict.fromkeys((ast.List, ast.ListComp), "a list"),
    **dict.fromkeys((ast.Set, ast.SetComp), "a set"),
    ast.Tuple: "a tuple",
    ast.JoinedStr: "a string",
    ast.GeneratorExp: "a generator",
}
_CONSTANTS: dict[type[object], str] = {
    str: "a string",
    bytes: "bytes",
    bool: "a boolean",
    type(None): "None",
    type(...): "an ellipsis",
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Entry:
    """Judges one entry point. What it cannot be certain of passes."""

    def __init__(self, report: Report, module: Scope) -> None:
        self.report = report
        self.module = module

    def check(self, name: str, entry_point: str, *, may_have_more: bool) -> None:
        """Report an entry point that is not there, or cannot be called. `may_have_more`: names that do not show."""
        left = self._left(name)
        if not left:
            if not may_have_more and not self.module.stars and "__getattr__" not in self.module.bindings:
                self.report.add((1, 0), "entry-point", lambda: self._missing(name, entry_point))
            return
        problems = [self._problem(each) for each in left]
        reasons = [problem for problem in problems if problem is not None]
        if len(reasons) == len(problems):
            where, reason = reasons[-1]
            wanted = f"must be a function that takes two positional arguments, as def {name}(payload, context) does"
            self.report.add(where, "entry-point", f"The entry point '{entry_point}' {wanted}; {reason}.")

    def _left(self, name: str) -> list[Binding]:
        """What may have given the name its value once the source has been loaded, in the order of the source."""
        left: list[Binding] = []
        for each in self.module.bindings.get(name, []):
            if each.straight:
                left = [one for one in left if one.scope is not self.module]  # a function may be called at any time
            left.append(each)
        return left

    def _missing(self, name: str, entry_point: str) -> str:
        listed = sorted(self.module.bindings)
        shown = ", ".join(f"'{wording.show(each.encode())}'" for each in listed[:_SHOWN])
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        defined = f"the source defines {shown}{more}" if listed else "the source defines nothing"
        near = difflib.get_close_matches(name, listed, n=1)
        hint = f" Did you mean {wording.either(near)}?" if near else ""
        return (
            f"The entry point '{entry_point}' is not defined: {defined}.{hint} Add def {name}(payload, context): ..."
        )

    def _problem(self, binding: Binding) -> tuple[Place, str] | None:
        """Where and why what a name is bound to is certainly not to be called; None for what may be."""
        for _ in range(_MAX_STEPS):
            node = binding.value or binding.node
            if not isinstance(node, ast.Name) or binding.value is None:
                break
            home = binding.scope.home(node.id)
            bindings = home.bindings[node.id] if home is not None else []
            if len(bindings) != 1:
                return None
            binding = bindings[0]
        else:
            return None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            reason = None if getattr(node, "decorator_list", ()) else _signature_problem(node)
            return (node, reason) if reason else None
        if isinstance(node, ast.alias):
            return (node, "here it is a module") if binding.is_module else None
        kind = _no_function(binding.value)
        return (binding.value, f"here it is {kind}") if kind and binding.value is not None else None


def _no_function(value: ast.expr | None) -> str | None:
    if isinstance(value, ast.Constant):
        return _CONSTANTS.get(type(value.value), "a number")
    if isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not):
        return "a boolean"
    if isinstance(value, ast.UnaryOp) and isinstance(value.operand, ast.Constant):
        return "a number"
    return None if value is None else _NO_FUNCTION.get(type(value))


def _signature_problem(node: _Function) -> str | None:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    needed = len(positional) - len(given.defaults)
    named = [each.arg for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    if len(positional) < _GIVEN and given.vararg is None:
        return f"this one takes {len(positional) or 'none'}"
    if needed > _GIVEN:
        return f"this one needs {needed}"
    if named:
        return f"this one needs '{wording.show(named[0].encode())}' by name"
    return None
