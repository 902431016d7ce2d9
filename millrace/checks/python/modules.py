"""Which modules a Python source may import, and what to say when it may not."""

import posixpath
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from millrace.checks import wording
from millrace.checks.findings import Rule

# The rule, and what makes the sentence.
Problem = tuple[Rule, Callable[[], str]]

# Refused whatever a runtime lists: processes, native code, code from text, and the module loader itself.
FORBIDDEN = wording.words(
    "_ctypes _imp _posixsubprocess _testcapi _xxsubinterpreters _interpreters code codeop ctypes imp "
    "multiprocessing nt pdb posix pty runpy subprocess zipimport"
)
_SHOWN = 80


@dataclass(frozen=True)
class Available:
    """What the source at `path` may import: modules of the runtime, and the other files of its project.

    A project's folder is where its own modules are looked for.
    """

    runtime: str
    modules: frozenset[str]
    files: Collection[str]
    path: str

    @cached_property
    def _places(self) -> frozenset[str]:
        """The modules and packages of the project as paths without suffix: 'lib', 'lib/orders'."""
        found = set()
        for file in self.files:
            whole = file.removesuffix(".py") if file.endswith(".py") else posixpath.dirname(file)
            while whole:
                found.add(whole)
                whole = posixpath.dirname(whole)
        return frozenset(found)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def _roots(self) -> frozenset[str]:
        return frozenset(name.split(".", 1)[0] for name in self.modules)

    def is_own(self, name: str) -> bool:
        """Whether the project has a module or package of this name, which goes before any other."""
        return name in self._places

    def problem(self, module: str, name: str = "") -> Problem | None:
        """Why `import module`, or `from module import name`, is refused; None when it is available."""
        root = module.split(".", 1)[0]
        if self.is_own(root):
            return self._own(module.replace(".", "/"), name)
        if root in FORBIDDEN:
            return "forbidden-module", lambda: (
                f"The module '{_show(module)}' is forbidden: scripts reach no process, no native code and no loader."
            )
        if root in self._roots or root == "__future__":
            return None
        if root in sys.stdlib_module_names:
            return "forbidden-module", lambda: (
                f"The module '{_show(module)}' of the standard library is not available in {self.runtime}. "
                f"{wording.offer(root, self.modules)}"
            )
        return "unknown-module", lambda: (
            f"There is no module '{_show(module)}' in {self.runtime}. "
            f"{self._neighbour(root)}{wording.offer(root, self.modules)}"
        )

    def relative_problem(self, level: int, module: str, name: str) -> Problem | None:
        """Why `from ..module import name`, with `level` dots, is refused; None when it is available."""
        folder = posixpath.dirname(self.path)
        for _ in range(level - 1):
            if not folder:
                break
            folder = posixpath.dirname(folder)
        if folder:
            return self._own(posixpath.join(folder, *module.split(".")) if module else folder, name)
        shown = _show(f"from {'.' * min(level, _SHOWN)}{module} import {name}")
        if not self.files:
            return "unknown-module", lambda: f"'{shown}' needs another file, and there is one only: put its code here."
        advice = f"write import {module or name}" if self.is_own(module or name) else "it lies outside of any package"
        return "unknown-module", lambda: f"'{shown}' cannot be resolved from '{self.path}': {advice}."

    def _own(self, wanted: str, name: str) -> Problem | None:
        """The same for a file or folder of the project, and what is taken from it."""
        is_bare = bool(name) and name != "*" and self._is_bare_folder(wanted)
        missing = posixpath.join(wanted, name) if is_bare else wanted
        if missing in self._places:
            return None
        return "unknown-module", lambda: self._missing(missing)

    def _missing(self, wanted: str) -> str:
        hint = wording.near(wanted, self._places)
        return f"There is no file '{_show(wanted + '.py')}' in the project, seen from '{self.path}'. {hint}".rstrip()

    def _is_bare_folder(self, wanted: str) -> bool:
        """Whether it holds nothing but files: neither a module nor an __init__.py says more."""
        code = {f"{wanted}.py", f"{wanted}/__init__.py"}
        return wanted in self._places and not code & self._known

    def _neighbour(self, root: str) -> str:
        """Advice about a file in the same folder, which Python does not look for there."""
        folder = posixpath.dirname(self.path)
        if not folder or posixpath.join(folder, root) not in self._places:
            return ""
        return f"For the file in the same folder, write from . import {root}. "


def _show(text: str) -> str:
    return wording.show(text.encode("utf-8", "replace"), _SHOWN)
