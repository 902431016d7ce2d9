"""python -m sandbox FILE [PAYLOAD]: runs one handler in a jail, with a launcher of its own and nothing else.

Logs go to standard error, the result to standard output. The exit code is 0 if and only if the handler
succeeded.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandbox import runtimes
from sandbox.client import Sandbox
from sandbox.job import JSON, CallRefused, Job, LogLine, SandboxUnavailable
from sandbox.runtimes import Runtime

_START_S = 30.0
_USAGE = "usage: python -m sandbox FILE [PAYLOAD as JSON]; FILE ends with .js, .cjs or .py"
_LANGUAGES = {".py": "python"}


class _Terminal:
    """A sink that prints."""

    def on_assigned(self) -> bool:
        return True

    def on_start(self) -> None:
        """Nothing to say."""

    def on_log(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            print(f"{line.level:<6} {line.text}", file=sys.stderr)

    def on_artifact(self, name: str, content_type: str, data: bytes) -> None:
        print(f"SYSTEM artifact {name} ({content_type}, {len(data)} bytes)", file=sys.stderr)

    def on_call(self, method: str, params: dict[str, JSON]) -> JSON:
        raise CallRefused(f"{method} needs a running Millrace")


@contextlib.contextmanager
def _private_launcher(home: Path, runtime: str) -> Iterator[Path]:
    environ = {**os.environ, "MILLRACE_HOME": str(home), "MILLRACE_WARM_JAILS": "0"}
    log = home / "launcher.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "sandbox.launcher", "--plain", "--runtime", runtime]
        process = subprocess.Popen(command, env=environ, stderr=output)
    socket_path = home / "run" / "launcher.sock"
    try:
        deadline = time.monotonic() + _START_S
        while not socket_path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SandboxUnavailable(log.read_text().strip())
            time.sleep(0.01)
        yield socket_path
    finally:
        process.terminate()
        process.wait()


def _runtime_for(file: Path) -> Runtime:
    """The default one of the file's language, or the only kind of Python that is here."""
    language = _LANGUAGES.get(file.suffix, "javascript")
    offered = [each for each in runtimes.load_all().values() if each.language == language]
    if not offered:
        raise SandboxUnavailable(f"there is no runtime for {language} on this host")
    return next((each for each in offered if each.name == runtimes.DEFAULT), offered[0])


def main(arguments: Sequence[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        source = Path(arguments[0]).read_bytes()
        payload = json.dumps(json.loads(arguments[1] if len(arguments) > 1 else "null")).encode()
    except (OSError, ValueError) as error:
        print(f"{error}\n{_USAGE}", file=sys.stderr)
        return 2
    run_id = str(uuid.uuid4())
    try:
        runtime = _runtime_for(Path(arguments[0]))
        job = Job(
            run_id=run_id,
            runtime=runtime.name,
            files={runtime.main: source},
            main=runtime.main,
            entry_point="handler",
            payload=payload,
            context={"runId": run_id},
        )
        with (
            tempfile.TemporaryDirectory(prefix="millrace-") as home,
            _private_launcher(Path(home), runtime.name) as socket_path,
        ):
            outcome = Sandbox(socket_path).run(job, _Terminal(), threading.Event())
    except SandboxUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    if outcome.error is None:
        print((outcome.result or b"null").decode())
        return 0
    print(
        f"{outcome.kind}: {outcome.error.stack or f'{outcome.error.name}: {outcome.error.message}'}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
