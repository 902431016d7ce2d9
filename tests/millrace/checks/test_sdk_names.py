"""The names that a script finds without an import are no findings, however they are used."""

from tests.millrace.checks.javascript import support as javascript
from tests.millrace.checks.python import support as python

JAVASCRIPT = """
const { db, log } = sdk;
const kept = context;
exports.handler = async (payload, given) => {
  const rows = await db.query('SELECT ?', [context.userId]);
  await sdk.db.transaction(async (tx) => { await tx.execute('x'); });
  await sdk.http.delete(`https://example.com/${kept.input.id}`, { timeout: 5 });
  log.info('x', { rows });
  await events.publish('a.b', { rows });
  return sdk.events === events && typeof sdk !== 'undefined';
};
"""
SHADOWED = """
const context = 1; let sdk = 2;
function events(context) { return context + sdk; }
exports.handler = (payload, context) => events(context);
"""
PYTHON = """
db, log = sdk.db, sdk.log

def handler(payload, given):
    with db.transaction() as tx:
        tx.execute("x", [context.user_id])
    log.info("x", {"input": context.input})
    events.publish("a.b", {})
    return sdk.http.get("https://example.com/", timeout=5).body
"""
SHADOWED_PYTHON = """
import json as sdk
events = [sdk]

def handler(payload, context):
    return events, context
"""


def test_scripts_of_javascript_use_the_sdk_without_a_finding() -> None:
    assert javascript.check(JAVASCRIPT) == []
    assert javascript.check(SHADOWED) == []


def test_scripts_of_python_use_the_sdk_without_a_finding() -> None:
    assert python.check(PYTHON) == []
    assert python.check(SHADOWED_PYTHON) == []
