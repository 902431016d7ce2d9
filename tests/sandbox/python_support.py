"""What the tests of the Python runtime share: a short way to run a handler, and Python with the way out alone."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox import runtimes
from tests.sandbox.support import Ran, Runner

FOLDER = Path(__file__).parents[2] / "sandbox" / "runtimes" / "python"
PACKAGES = FOLDER / "packages"
RUNTIMES = [name for name, runtime in runtimes.load_all().items() if runtime.language == "python"]
"""Those of the interpreters that this host has; there is one at least, since it runs the tests."""
DEADLINE = 60.0


class Python:
    """Runs Python sources in the jails of one launcher."""

    def __init__(self, runner: Runner, runtime: str = RUNTIMES[0]) -> None:
        self._runner = runner
        self._runtime = runtime

    def __call__(self, source: str | dict[str, str], payload: Any = None, **fields: Any) -> Ran:
        files = {"main.py": textwrap.dedent(source).lstrip("\n")} if isinstance(source, str) else source
        job = {"runtime": self._runtime, "main": "main.py", "entry_point": "handler", **fields}
        return self._runner(files, payload, **job)

    def body(self, statements: str, payload: Any = None, **fields: Any) -> Ran:
        """Run a handler that consists of `statements`."""
        return self(_function("def handler(payload, context):", statements), payload, **fields)

    def async_body(self, statements: str, payload: Any = None, **fields: Any) -> Ran:
        """Run a coroutine as handler that consists of `statements`."""
        return self(_function("async def handler(payload, context):", statements), payload, **fields)


def _function(head: str, statements: str) -> str:
    return f"{head}\n{textwrap.indent(textwrap.dedent(statements).strip(), '    ')}\n"


_PRELUDE = """
import json, os, sys
env = os.environ
package = type(sys)("<boot>")
package.__path__ = [env["BOOT"]]
sys.modules["<boot>"] = package
sys.path.append(env["PACKAGES"])
for name in ("modules", "egress"):
    __import__(f"<boot>.{name}")
package.modules.install(env["PACKAGES"])
package.egress.install(env["EGRESS_SOCKET"])


def about(error):
    cause = error.__cause__ or error.__context__
    return {
        "name": type(error).__name__, "errno": getattr(error, "errno", None), "message": str(error),
        "cause": about(cause) if cause else None,
    }
"""


def run_python(body: str, socket_path: Path, environ: Mapping[str, str] | None = None) -> Any:
    """What the coroutine with this body returned, run by Python with nothing of the bootstrap but the way out."""
    done = subprocess.run(
        [
            runtimes.named(RUNTIMES[0]).binary, "-I", "-S", "-X", "utf8", "-c",
            f"{_PRELUDE}\n{_function('async def main():', body)}\n"
            "import asyncio\nsys.stdout.write(json.dumps(asyncio.run(main())))",
        ],
        env={"BOOT": str(FOLDER), "PACKAGES": str(PACKAGES), "EGRESS_SOCKET": str(socket_path), **(environ or {})},
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b"", done.stderr.decode()
    return json.loads(done.stdout)
