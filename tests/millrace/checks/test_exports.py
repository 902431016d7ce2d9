"""The entry point must be exported, as far as that can be read off."""

import pytest

from millrace import errors
from millrace.checks import Finding, check_source, entry_name
from tests.millrace.checks.support import check

EXPORTED = [
    "exports.handler = 1",
    "module.exports.handler = 1",
    "module.exports = { handler }",
    "module.exports = { handler: f }",
    "module.exports = { handler() {} }",
    "module.exports = { async handler() {} }",
    "module.exports = { 'handler': 1 }",
    "module.exports = { ['handler']: 1 }",
    "module.exports = { get handler() { return 1 } }",
    "Object.assign(module.exports, { handler })",
    "Object.assign(exports, { a: 1 }, { handler })",
    "exports['handler'] = 1",
    "exports[`handler`] = 1",
    "module['exports'].handler = 1",
    "const e = module.exports; e.handler = 1",
    "const e = exports; e['handler'] = 1",
    "var e = module.exports = {}; e.handler = 1",
    "const e = exports = module.exports = {}; e.handler = 1",
    "exports = module.exports = { handler }",
    "module.exports = exports = { handler }",
    "const api = { handler }; module.exports = api",
    "const api = {}; api.handler = 1; module.exports = api",
    "module.exports = api; var api = { handler() {} }",
    "let api; api = { handler: 1 }; module.exports = api",
    "function api() {} api.handler = 1; module.exports = api",
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
    "(function (e) { e.handler = 1 })(exports)",
    "(function (module, exports) { })(module, exports)",
    "this.handler = 1",
    "module.exports = Object.freeze({ handler })",
    "module.exports = Object.assign({}, { handler })",
    "module.exports = a ? { handler } : { b }",
    "exports.a = exports.handler = 1",
    "exports.handler = exports.main = async () => {}",
    "({ f: exports.handler } = x)",
    "[exports.handler] = x",
    "exports.handler ||= 1",
    "if (x) exports.handler = 1",
    "for (const k of ks) exports[k] = 1",
    "const { exports: e } = module; e.handler = 1",
    "const m = module; m.exports.handler = 1",
    "module.exports = handlers; const { handlers } = require('lodash')",
    "function f(h) { module.exports = h }",
    "exports.\\u0068andler = 1",
    "globalThis.module; exports.handler = 1",
    "(() => { exports.handler = 1 })()",
    "var a = module.exports; var b = a; b.handler = 1",
    "module.exports = { a, b, handler, c }",
    "Object.assign(module.exports, handlers)",
    "module.exports.default = module.exports; module.exports.handler = f",
    "const self = this; self.handler = 1",
    "module.exports = api; const api = make()",
    "exports.default = { handler }; module.exports = exports.default",
    "Object.defineProperty(exports, '__esModule', { value: true }); exports.handler = void 0; exports.handler = f",
    "module.exports = __toCommonJS(src_exports)",
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


def test_replacing_exports_itself_is_explained() -> None:
    (finding,) = entry_findings("exports = { handler() {} }")
    assert "assign to module.exports" in finding.message


@pytest.mark.parametrize("entry_point", ["handler", "exports.handler", "module.exports.handler"])
def test_all_three_spellings_name_the_same_export(entry_point: str) -> None:
    assert entry_name(entry_point) == "handler"
    assert entry_findings("exports.handler = 1", entry_point=entry_point) == []
    assert entry_findings("exports.other = 1", entry_point=entry_point) != []


def test_a_deeper_entry_point_needs_its_first_part() -> None:
    assert entry_name("exports.orders.created") == "orders.created"
    assert entry_findings("exports.orders = make()", entry_point="exports.orders.created") == []
    assert entry_findings("exports.created = 1", entry_point="exports.orders.created") != []


@pytest.mark.parametrize(
    "entry_point", ["", "exports.", "1a", "a b", "a-b", "a..b", ".a", "a.", "a()", "é" * 201, None, 7]
)
def test_an_entry_point_that_names_nothing_is_invalid(entry_point: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        check_source(b"", runtime="nodejs20", entry_point=entry_point, modules=frozenset())
    assert caught.value.field == "entry_point"
