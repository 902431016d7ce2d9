"""What there is to steal: the host's environment, the platform's paths, secrets of earlier runs."""

from __future__ import annotations

import secrets

import pytest

from tests.launcher import ROOT
from tests.sandbox.hostile.arena import RAW, Arena, Case, cases
from tests.sandbox.support import Ran

OWN = {"HOME", "NODE_ENV", "TZ"}


def only_own_environment(ran: Ran) -> bool:
    return all(set(names) <= OWN for names in ran.result)


def names_no_host_path(ran: Ran) -> bool:
    text = str(ran.outcome.result) + str(ran.outcome.error) + "".join(ran.texts)
    return str(ROOT) not in text and "/boot/" not in text and "site-packages" not in text


@cases(
    Case(
        "the host's environment is nowhere",
        """
        const { Worker } = real('worker_threads');
        const names = (text) => text.split('\\0').filter(Boolean).map((pair) => pair.split('=')[0]);
        const inThread = await new Promise((done) => new Worker(
          "require('worker_threads').parentPort.postMessage(Object.keys(process.env))", { eval: true }).on('message',
            done));
        return [Object.keys(process.env), names(fs.readFileSync('/proc/self/environ', 'utf8')),
          names(fs.readFileSync('/proc/1/environ', 'utf8')),
            Object.keys(process.report.getReport().environmentVariables), inThread];
        """,
        shows=only_own_environment,
    ),
    Case(
        "the command line tells how Node was started and no more",
        "return [process.argv, process.execPath, process.title, fs.readFileSync('/proc/self/cmdline',"
        " 'utf8').split('\\0')]",
        shows=lambda ran: str(ROOT) not in str(ran.result) and ran.result[1] == "/bin/node",
    ),
    Case(
        "the machine has a name of the jail's own",
        "const os = require('os'); return [os.hostname(), os.userInfo().username, os.homedir(), os.tmpdir(),"
        " os.networkInterfaces()]",
        result=["jail", "nobody", "/tmp", "/tmp", {}],
    ),
    Case(
        "the jail does not see which group it is in",
        "return fs.readFileSync('/proc/self/cgroup', 'utf8').split('\\n').filter(Boolean)"
        ".map((row) => row.split(':')[2])",
        shows=lambda ran: set(ran.result) <= {"/"},
    ),
    Case(
        "a stack names the script's files only",
        "const dig = require('lodash'); dig.map([1], () => { throw new Error('deep'); })",
        kind="exception",
        shows=names_no_host_path,
    ),
    Case(
        "a stack as the script sees it has no path of the platform's",
        "return new Error('x').stack + (() => { try { require('nope') } catch (e) { return e.stack } })()",
        shows=names_no_host_path,
    ),
    Case(
        "what the script is told of its mounts names no folder of a user's",
        "return fs.readFileSync('/proc/self/mountinfo', 'utf8')",
        shows=lambda ran: "/root/" not in ran.result and str(ROOT / "sandbox" / "runtimes") not in ran.result,
    ),
    Case(
        "scratch is empty at first",
        "return fs.readdirSync('/tmp')",
        result=[],
    ),
    Case(
        "secrets are not printed with the context",
        "console.log(context, context.secrets, { context }); console.log('%o %j', context.secrets, 1)",
        shows=lambda ran: "s3cr3t" not in "".join(ran.texts),
        fields={"secrets": {"KEY": "s3cr3t"}},
    ),
    Case(
        "secrets are not in the environment",
        "return [JSON.stringify(process.env), fs.readFileSync('/proc/self/environ', 'utf8')]",
        shows=lambda ran: "s3cr3t" not in str(ran.result),
        fields={"secrets": {"KEY": "s3cr3t"}},
    ),
    Case(
        "the platform's bootstrap gives its modules to nobody who knows their names",
        "return ['/boot/channel.js', '../boot/channel.js', '/boot/boot.js', 'fs', 'node:fs', 'child_process',"
        " 'module', 'vm',"
        " 'inspector', 'worker_threads', 'v8', 'process', 'repl'].map((name) => { try { require(name); return name;"
        " } catch { return ''; } })"
        ".filter(Boolean)",
        result=[],
    ),
)  # fmt: skip
def test_theft(arena: Arena, case: Case) -> None:
    arena.face(case)


SCAN = """
const needle = Buffer.from(payload, 'hex');
const memory = fs.openSync('/proc/self/mem', 'r');
let seen = 0;
for (const row of fs.readFileSync('/proc/self/maps', 'utf8').split('\\n')) {
  const [, start, end] = /^(\\w+)-(\\w+) rw/.exec(row) ?? [];
  const first = BigInt('0x' + (start ?? 0)), size = start ? Number(BigInt('0x' + end) - first) : 0;
  if (size === 0 || size > 200e6) continue;
  const words = new Uint32Array(size / 4), page = Buffer.from(words.buffer);
  try { fs.readSync(memory, page, 0, size, first); } catch { continue; }
  for (let i = 0; i < words.length; i++) words[i] ^= 0x55555555;
  if (page.includes(needle)) seen += 1;
}
return seen;
"""


def test_the_memory_of_a_jail_holds_nothing_of_an_earlier_run(arena: Arena) -> None:
    """The secret is looked for with its bits turned, so that what looks for it is not found."""
    secret = secrets.token_hex(16)
    for _ in range(2):
        ran = arena.run.body("return context.secrets.KEY.length", secrets={"KEY": secret})
        assert ran.result == 32
    turned = bytes(byte ^ 0x55 for byte in secret.encode()).hex()
    source = f"{RAW}\nexports.handler = async (payload, context) => {{ {SCAN} }}"
    assert arena.run(source, turned, secrets={"KEY": secret}).result > 0
    for _ in range(2):
        assert arena.run(source, turned).result == 0
    arena.check_next_run()


@pytest.mark.parametrize("key", ["alice", None])
def test_scratch_environment_and_globals_of_an_earlier_run_are_nowhere(arena: Arena, key: str | None) -> None:
    arena.run(
        f"{RAW} exports.handler = () => {{ fs.writeFileSync('/tmp/loot', 'x'); process.env.LOOT = 'x';"
        f" globalThis.loot = 'x';"
        " Object.prototype.loot = 'x'; require('lodash').loot = 'x'; process.title = 'loot'; process.umask(0);"
        " return 1; }",
        reuse_key=key,
    )
    ran = arena.run(
        f"{RAW} exports.handler = () => [fs.readdirSync('/tmp').length, process.env.LOOT ?? 0, globalThis.loot ?? 0,"
        " {}.loot ?? 0, require('lodash').loot ?? 0, process.title.includes('loot')]",
        reuse_key=None if key is None else "bob",
    )
    assert ran.result == [0, 0, 0, 0, 0, False]
    assert ran.outcome.usage.jail != "reused"
    arena.check_next_run()
