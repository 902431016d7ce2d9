"""Which modules a script may ask for, and what to say when it may not."""

import posixpath
from collections.abc import Collection
from dataclasses import dataclass

from millrace.checks import wording
from millrace.checks.findings import Rule

# Refused whatever a runtime lists: processes, files, sockets, other contexts, and the module loader itself.
FORBIDDEN = wording.words("child_process cluster dgram fs inspector module net process repl tls v8 vm worker_threads")
# The rest of Node's own modules: available when the runtime lists them.
BUILTIN = FORBIDDEN | wording.words(
    "_http_agent _http_client _http_common _http_incoming _http_outgoing _http_server _stream_duplex "
    "_stream_passthrough _stream_readable _stream_transform _stream_wrap _stream_writable _tls_common "
    "_tls_wrap assert async_hooks buffer console constants crypto diagnostics_channel dns domain events http "
    "http2 https os path perf_hooks punycode querystring readline sea sqlite stream string_decoder sys test "
    "timers trace_events tty url util wasi zlib"
)
_SUFFIXES = ("", ".js", ".cjs", ".json", "/index.js", "/index.cjs", "/index.json")


@dataclass(frozen=True)
class Available:
    """What the source at `path` may ask for: modules of the runtime, and the other files of its project."""

    runtime: str
    modules: frozenset[str]
    files: Collection[str] = ()
    path: str = "index.js"

    def problem(self, name: str) -> tuple[Rule, str] | None:
        """The rule and the sentence by which a module is refused; None when it is available."""
        if name.startswith(("./", "../", "/")) or name in (".", ".."):
            return self._relative(name)
        shown = _show(name)
        plain = name.removeprefix("node:")
        root = plain.split("/", 1)[0]
        if root in FORBIDDEN:
            return (
                "forbidden-module",
                f"The module '{shown}' is forbidden: scripts reach no process, file or socket.",
            )
        if root in BUILTIN or name.startswith("node:"):
            if {name, plain} & self.modules:
                return None
            offer = wording.offer(plain, self.modules)
            return "forbidden-module", f"The module '{shown}' of Node is not available in {self.runtime}. {offer}"
        if self._is_part_of_library(name):
            return None
        return "unknown-module", f"There is no module '{shown}' in {self.runtime}. {wording.offer(name, self.modules)}"

    def _is_part_of_library(self, name: str) -> bool:
        """`dayjs/plugin/utc` belongs to dayjs; what climbs out with dots belongs to nobody."""
        parts = name.split("/")
        length = 2 if name.startswith("@") else 1
        return "/".join(parts[:length]) in self.modules and not {"", ".", ".."} & set(parts)

    def _relative(self, name: str) -> tuple[Rule, str] | None:
        if not self.files:
            return (
                "unknown-module",
                f"'{_show(name)}' is another file, and this script is a single file: put its code here.",
            )
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), name))
        if name.startswith("/") or wanted.startswith("../") or wanted == "..":
            return "unknown-module", f"'{_show(name)}' lies outside of the project."
        wanted = "" if wanted == "." else wanted
        known = set(self.files)
        if any((wanted + suffix).removeprefix("/") in known for suffix in _SUFFIXES):
            return None
        hint = wording.near(wanted, known)
        return (
            "unknown-module",
            f"There is no file '{_show(name)}' in the project, seen from '{self.path}'. {hint}".rstrip(),
        )


def _show(name: str) -> str:
    return wording.show(name.encode("utf-8", "replace"), 80)
