"""The entry point must be exported, as far as that can be read off."""

import pytest

from millrace import errors
from millrace.checks import Finding, check_source, entry_name
from tests.millrace.checks.javascript.support import check

EXPORTED = [
    "exports.handler = f",
    "module.exports.handler = f",
    "module.exports = { handler }",
    "module.exports = { handler: f }",
    "module.exports = { handler() {} }",
    "module.exports = { async handler() {} }",
    "module.exports = { 'handler': f }",
    "module.exports = { ['handler']: f }",
    "module.exports = { get handler() { return 1 } }",
    "Object.assign(module.exports, { handler })",
    "Object.assign(exports, { a: 1 }, { handler })",
    "exports['handler'] = f",
    "exports[`handler`] = f",
    "module['exports'].handler = f",
    "const e = module.exports; e.handler = f",
    "const e = exports; e['handler'] = f",
    "var e = module.exports = {}; e.handler = f",
    "const e = exports = module.exports = {}; e.handler = f",
    "exports = module.exports = { handler }",
    "module.exports = exports = { handler }",
    "const api = { handler }; module.exports = api",
    "const api = {}; api.handler = f; module.exports = api",
    "module.exports = api; var api = { handler() {} }",
    "let api; api = { handler: f }; module.exports = api",
    "function api() {} api.handler = f; module.exports = api",
    "class Api { static handler() {} } module.exports = Api",
    "module.exports = class { static async handler() {} }",
    "Object.defineProperty(exports, 'handler', { value: 1 })",
    'Object.defineProperty(module.exports, "handler", { get: f })',
    "Object.defineProperties(exports, { handler: {} })",
    "module.exports = makeHandlers()",
    "module.exports = { ...handlers }",
    "module.exports = { ...{ handler } }",
    "module.exports = require('lodash')",
    "module.exports = new Api()",
    "__exportStar(require('lodash'), exports)",
    "exports[name] = 1",
    "(function (e) { e.handler = f })(exports)",
    "(function (module, exports) { })(module, exports)",
    "this.handler = f",
    "module.exports = Object.freeze({ handler })",
    "module.exports = Object.assign({}, { handler })",
    "module.exports = a ? { handler } : { b }",
    "exports.a = exports.handler = f",
    "exports.handler = exports.main = async () => {}",
    "({ f: exports.handler } = x)",
    "[exports.handler] = x",
    "exports.handler ||= f",
    "if (x) exports.handler = f",
    "for (const k of ks) exports[k] = 1",
    "const { exports: e } = module; e.handler = f",
    "const m = module; m.exports.handler = f",
    "module.exports = handlers; const { handlers } = require('lodash')",
    "function f(h) { module.exports = h }",
    "exports.\\u0068andler = f",
    "globalThis.module; exports.handler = f",
    "(() => { exports.handler = f })()",
    "var a = module.exports; var b = a; b.handler = f",
    "module.exports = { a, b, handler, c }",
    "Object.assign(module.exports, handlers)",
    "module.exports.default = module.exports; module.exports.handler = f",
    "const self = this; self.handler = f",
    "module.exports = api; const api = make()",
    "exports.default = { handler }; module.exports = exports.default",
    "Object.defineProperty(exports, '__esModule', { value: true }); exports.handler = void 0; exports.handler = f",
    "module.exports = __toCommonJS(src_exports)",
    "exports.handler = null; exports.handler = f",
    "exports.handler = null; if (x) exports.handler = f",
    "exports.handler = 'x'; Object.assign(exports, { handler })",
    "exports.handler = void 0; function init() { exports.handler = f }",
    "exports.handler = a || 'x'",
    "exports.handler = a ? 1 : f",
    "exports.handler = tag`x`",
    "exports.handler = f; exports.other = 1; exports.other = 'x'",
    "exports.handler = f; if (x) exports.handler = null",
    "exports.handler = f; () => { exports.handler = undefined }",
    "exports.handler = f; if (x) delete exports.handler",
    "exports.handler = f; delete exports.other",
    "delete exports.handler; exports.handler = f",
    "exports.handler = f; delete exports[x]",
    "exports.handler = f; if (x) return; delete exports.handler",
    "exports.handler = f; if (x) return; exports.handler = 1",
    "module.exports = {}; module.exports.handler = f; delete exports.handler",
    "module.exports = {}; module.exports.handler = f; exports.handler = 1",
    "module.exports = {}; module.exports.handler = f",
    "module.exports.handler = f; if (x) module.exports = {}",
    "exports.handler = f; x && (module.exports = {})",
    "exports.handler = f; if (x) return; module.exports = {}",
    "exports.handler = f; module.exports = { ...exports }",
    "exports.handler = f; module.exports = exports",
    "exports.handler = f; module.exports = { handler: exports.handler }",
    "const old = exports; exports.handler = f; module.exports = {}; module.exports = old",
    "const api = {}; api.handler = f; module.exports = {}; module.exports = api",
    "exports = module.exports = {}; exports.handler = f",
    "var exports = module.exports = {}; exports.handler = f",
    "module.exports = {}; var { exports } = module; exports.handler = f",
    "module.exports = {}; { const exports = module.exports; exports.handler = f }",
    "module.exports = {}; exports = module.exports; exports.handler = f",
    "module.exports = {}; const m = module; m.exports.handler = f",
    "module.exports = {}; init(module)",
    "module.exports = { handler }; exports = 1",
    "module.exports = function () {}; module.exports.handler = f",
    "function set() { module.exports.handler = f } module.exports = {}; set()",
    "module.exports = { handler: 1, ...x }",
    "module.exports = { handler: 1 }; module.exports.handler = f",
    "const api = { handler: 1 }; api.handler = f; module.exports = api",
    "Object.defineProperty(exports, 'handler', { get: f, set() {} }); exports.handler = 1",
    "if (x) module.exports = { handler }; else module.exports = { handler: 1 }",
    "try { exports.handler = f } catch { exports.handler = null }",
]

NOT_EXPORTED = [
    "",
    "const handler = 1",
    "exports.Handler = 1",
    "module.exports = { Handler }",
    "module.exports = {}",
    "exports = { handler }",
    "module.exports = () => {}",
    "module.exports = 'x'",
    "function f(exports) { exports.handler = 1 }",
    "{ const exports = {}; exports.handler = 1 }",
    "// exports.handler = 1",
    "'exports.handler = 1'",
    "exports.other = { handler: 1 }",
    "console.log(exports.handler)",
    "const api = { run() {} }; module.exports = api",
    "class Api { handler() {} } module.exports = Api",
    "Object.defineProperty(exports, '__esModule', {})",
    "module.exports = { main: { handler: 1 } }",
    "x.exports.handler = 1",
    "exports.a.handler = 1",
    "if (typeof module !== 'undefined') exports.a = 1",
    "const handler = async () => {}; handler.exports = 1",
    "Object.keys(exports); exports.a = 1",
    "exports.handler2 = exports.handler",
    "exports.handler = 1",
    "exports.handler = 'x'",
    "exports.handler = `x${y}`",
    "exports.handler = undefined",
    "exports.handler = void 0",
    "exports.handler = (null)",
    "exports.handler = {}",
    "exports.handler = [f]",
    "exports.handler = exports.main = true",
    "module.exports = { handler: 'x' }",
    "exports.handler = 1; if (x) exports.handler = 'x'",
    "if (false) exports.handler = 1",
    "exports.handler = async () => 1; exports.handler = undefined",
    "exports.handler = async () => 1; module.exports = {}",
    "exports.handler = async () => 1; module.exports = { other: 1 }",
    "module.exports.handler = f; module.exports = function () {}",
    "this.handler = f; module.exports = {}",
    "module.exports = {}; exports.handler = async () => 1",
    "module.exports = { main }; function f() { exports.handler = f }",
    "exports.handler = async () => 1; delete exports.handler",
    "module.exports.handler = f; delete module.exports['handler']",
    "module.exports = {}; module.exports.handler = f; delete module.exports.handler",
]


def entry_findings(source: str, **changes: object) -> list[Finding]:
    return [finding for finding in check(source, **changes) if finding.rule in ("entry-point", "syntax")]


@pytest.mark.parametrize("source", EXPORTED)
def test_an_entry_point_that_is_or_may_be_exported_passes(source: str) -> None:
    assert entry_findings(source) == []


@pytest.mark.parametrize("source", NOT_EXPORTED)
def test_an_entry_point_that_is_certainly_not_exported_is_refused(source: str) -> None:
    assert [finding.rule for finding in entry_findings(source)] == ["entry-point"]


def test_the_refusal_names_what_is_exported() -> None:
    (finding,) = entry_findings("exports.main = 1; module.exports.other = 2;")
    assert "'exports.handler' is not exported: the source exports 'main', 'other'" in finding.message
    assert (finding.line, finding.column) == (1, 1)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("exports.handler = 'x'", "must be a function, and the source exports a string as 'handler'"),
        ("if (x) exports.handler = 1; else exports.handler = null", "exports a number or null as 'handler'"),
        ("exports.handler = f; module.exports = { a }", "the source exports 'a' (its 'handler' is lost, as module.exp"),
        ("exports.handler = f; module.exports = { a }", "Add module.exports.handler = ..."),
        ("exports.handler = f; delete exports.handler", "exports nothing (it deletes 'handler' again)"),
    ],
)
def test_the_refusal_says_why_an_export_does_not_count(source: str, part: str) -> None:
    (finding,) = entry_findings(source)
    assert part in finding.message


def test_replacing_exports_itself_is_explained() -> None:
    (finding,) = entry_findings("exports = { handler() {} }")
    assert "assign to module.exports" in finding.message


@pytest.mark.parametrize("entry_point", ["handler", "exports.handler", "module.exports.handler"])
def test_all_three_spellings_name_the_same_export(entry_point: str) -> None:
    assert entry_name(entry_point) == "handler"
    assert entry_findings("exports.handler = f", entry_point=entry_point) == []
    assert entry_findings("exports.other = f", entry_point=entry_point) != []


def test_a_deeper_entry_point_needs_its_first_part() -> None:
    assert entry_name("exports.orders.created") == "orders.created"
    assert entry_findings("exports.orders = make()", entry_point="exports.orders.created") == []
    assert entry_findings("exports.created = 1", entry_point="exports.orders.created") != []
    assert entry_findings("exports.orders = {}", entry_point="exports.orders.created") == []
    (finding,) = entry_findings("exports.orders = 1", entry_point="exports.orders.created")
    assert "must be an object with 'created', and the source exports a number as 'orders'" in finding.message


@pytest.mark.parametrize(
    "entry_point", ["", "exports.", "1a", "a b", "a-b", "a..b", ".a", "a.", "a()", "é" * 201, None, 7]
)
def test_an_entry_point_that_names_nothing_is_invalid(entry_point: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        check_source(b"", runtime="nodejs20", entry_point=entry_point, modules=frozenset())
    assert caught.value.field == "entry_point"
