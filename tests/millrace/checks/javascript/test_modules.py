"""Modules: the forbidden ones under every spelling, the unknown ones with a hint, the files of a project."""

import pytest

from millrace.checks import Finding
from millrace.checks.javascript.modules import FORBIDDEN
from tests.millrace.checks.javascript.support import MODULES, check_body
from tests.millrace.checks.javascript.support import check as check_with

LEAST_DENIED = (
    "child_process",
    "cluster",
    "dgram",
    "fs",
    "inspector",
    "module",
    "net",
    "process",
    "repl",
    "tls",
    "v8",
    "vm",
    "worker_threads",
)


def rules(source: str) -> set[str]:
    return {finding.rule for finding in check_body(source)}


@pytest.mark.parametrize("name", LEAST_DENIED)
@pytest.mark.parametrize(
    "spelling",
    [
        "require('{}')",
        'require("node:{}")',
        "require(`{}`)",
        "require('{}/promises')",
        "require('node:{}/promises')",
        "import('{}')",
        "import(`node:{}`)",
        "require((('{}')))",
        "require?.('{}')",
        "(0, require)('{}')",
        "globalThis.require('{}')",
        "const {{ x }} = require('{}').y",
        "async () => {{ await import('{}') }}",
        "require.resolve('{}')",
    ],
)
def test_a_denied_module_is_refused_under_every_spelling(name: str, spelling: str) -> None:
    assert "forbidden-module" in rules(spelling.format(name))


def test_a_denied_module_stays_denied_when_a_runtime_lists_it() -> None:
    found = check_with("require('fs')", modules=frozenset(FORBIDDEN))
    assert "forbidden-module" in {finding.rule for finding in found}


@pytest.mark.parametrize(
    "source",
    [
        "require('child' + '_process')",
        "require('\\x66s')",
        "require('\\u{66}s')",
        "require(`${'f'}s`)",
        "r\\u0065quire('fs')",
        "require(/* x */ 'fs')",
        "require('fs', 1)",
    ],
)
def test_a_name_that_is_put_together_from_constants_is_read(source: str) -> None:
    assert rules(source) == {"forbidden-module"}


@pytest.mark.parametrize("name", [*sorted(MODULES), "node:crypto", "lodash/get", "dayjs/plugin/utc"])
def test_what_the_runtime_offers_is_available(name: str) -> None:
    assert check_body(f"require('{name}')") == []


@pytest.mark.parametrize(
    ("name", "rule", "part"),
    [
        ("lodash", "forbidden-construct", "write require('lodash')"),
        ("node:crypto", "forbidden-construct", "write require('node:crypto')"),
        ("fs", "forbidden-module", "The module 'fs' is forbidden"),
        ("node:fs", "forbidden-module", "The module 'node:fs' is forbidden"),
        ("left-pad", "unknown-module", "There is no module 'left-pad'"),
        ("./x", "unknown-module", "this script is a single file"),
    ],
)
def test_a_dynamic_import_is_refused_for_its_module_or_else_for_itself(name: str, rule: str, part: str) -> None:
    (found,) = check_body(f"import('{name}')")
    assert found.rule == rule
    assert part in found.message


@pytest.mark.parametrize("name", ["dns", "node:http2", "os", "util/types", "node:test", "wasi", "path/posix"])
def test_other_modules_of_node_are_refused_unless_the_runtime_lists_them(name: str) -> None:
    assert rules(f"require('{name}')") == {"forbidden-module"}
    listed = frozenset((name.removeprefix("node:"),))
    assert [f.rule for f in check_with(f"exports.handler = require('{name}')", modules=listed)] == []


@pytest.mark.parametrize(
    "name",
    ["left-pad", "", "lodash/../fs", "lodash//get", "@scope", "@scope/name", "Lodash", "LODASH", "__proto__", "é"],
)
def test_an_unknown_module_is_named(name: str) -> None:
    (found,) = check_body(f"const x = require('{name}')")
    assert found.rule == "unknown-module"
    assert (found.line, found.column) == (1, 19)
    assert f"'{name}'" in found.message
    assert "Available: axios, crypto, dayjs" in found.message


def test_a_near_name_is_suggested() -> None:
    (found,) = check_body("require('lodahs')")
    assert "Did you mean 'lodash'?" in found.message


def test_a_library_with_a_scope_is_found_with_its_parts() -> None:
    source = "exports.handler = require('@a/b'); require('@a/b/c')"
    assert check_with(source, modules=frozenset(("@a/b",))) == []


def test_a_single_file_has_no_other_files() -> None:
    for name in ("./x", "../x", "/x", ".", "./lodash"):
        (found,) = check_body(f"require('{name}')")
        assert found.rule == "unknown-module"
        assert "this script is a single file" in found.message


FILES = ("index.js", "lib/a.js", "lib/b/index.js", "data.json", "lib/c.cjs")


def project(source: str, path: str = "index.js") -> list[Finding]:
    return [found for found in check_with(source, files=FILES, path=path) if found.rule != "entry-point"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./lib/a", "index.js"),
        ("./lib/a.js", "index.js"),
        ("./lib/b", "index.js"),
        ("./data", "index.js"),
        ("./data.json", "index.js"),
        ("./lib/c", "index.js"),
        ("../index", "lib/a.js"),
        ("./b", "lib/a.js"),
        ("..", "lib/a.js"),
        ("../../lib/a", "lib/b/index.js"),
        (".", "lib/b/index.js"),
    ],
)
def test_a_file_of_the_project_is_found_from_where_it_is_asked_for(name: str, path: str) -> None:
    assert project(f"require('{name}')", path) == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("./lib/aa", "Did you mean 'lib/a.js'?"),
        ("./missing", "There is no file './missing' in the project, seen from 'index.js'"),
        ("../index", "lies outside of the project"),
        ("/etc/passwd", "lies outside of the project"),
        ("./lib/../../x", "lies outside of the project"),
    ],
)
def test_a_file_that_is_not_there_is_named(name: str, part: str) -> None:
    (found,) = project(f"require('{name}')")
    assert found.rule == "unknown-module"
    assert part in found.message
