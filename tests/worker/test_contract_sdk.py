"""What the contract of the SDK says word by word, from a script in a real jail to the stores."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from millrace import datasources, events
from millrace.datasources import NewSource
from millrace.models import Event, Workspace
from millrace.services import Services
from sandbox.client import Sandbox
from sandbox.egress.policy import Policy
from tests.launcher import start_launcher
from tests.worker.support import WORKSPACE, new_script, reload, submit, worker_on
from worker.databases import Databases
from worker.executor import Executor


@pytest.fixture
def database_kind() -> str:
    """Our own database is not what is tested here."""
    return "sqlite"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A client of a launcher of our own."""
    with start_launcher(tmp_path_factory.mktemp("launcher")) as socket_path:
        client = Sandbox(socket_path)
        yield client
        client.close()


@pytest.fixture
def executor(services: Services, sandbox: Sandbox) -> Iterator[Executor]:
    """An executor on it, with the workspace's databases."""
    databases = Databases(services, Policy(), threads=2)
    with worker_on(services, sandbox, databases=databases) as executor:
        yield executor
    databases.close()


def result(services: Services, executor: Executor, source: str, payload: object = None, **options: Any) -> Any:
    """What a script of this source returns."""
    run = submit(services, new_script(services, source.encode()), payload, **options)
    executor.execute(run.id, 1)
    done = reload(run)
    assert done.status == "succeeded" and done.result is not None, done.error
    return json.loads(done.result)


def test_context_has_the_members_of_the_contract_in_their_types(services: Services, executor: Executor) -> None:
    source = """exports.handler = async (input) => ({
        types: Object.fromEntries(Object.entries(context).map(([name, value]) => [name, value && typeof value])),
        trigger: context.trigger, same: context.input === input,
        frozen: [context, context.trigger, sdk, ...Object.values(sdk), events].every(Object.isFrozen) })"""
    assert result(services, executor, source, {"a": 1}, user_id=7) == {
        "types": {
            "tenantId": "string", "userId": "number", "organizationId": None, "scriptId": "string",
            "executionId": "string", "input": "object", "trigger": "object",
        },
        "trigger": {
            "type": "api", "eventType": None, "eventPayload": None, "httpRequest": None, "cronExpression": None,
        },
        "same": True, "frozen": True,
    }  # fmt: skip


def test_cached_values_have_the_names_of_the_contract_in_redis(services: Services, executor: Executor) -> None:
    source = """exports.handler = async () => [
        await sdk.cache.set('kept', { a: 1 }), await sdk.cache.set('brief', 1, 60), await sdk.cache.increment('n', 5),
        await sdk.cache.exists('kept'), await sdk.cache.delete('nothing'), context.scriptId ]"""
    *answers, script = result(services, executor, source)
    assert answers == [True, True, 5, True, False]
    prefix = f"tenant:{WORKSPACE}:script:{script}:"
    with redis.Redis.from_url(services.settings.redis_url, decode_responses=True) as client:
        assert set(client.scan_iter("tenant:*")) == {f"{prefix}{name}" for name in ("kept", "brief", "n")}
        assert (client.ttl(f"{prefix}kept"), client.ttl(f"{prefix}n")) == (-1, -1)
        assert 0 < client.ttl(f"{prefix}brief") <= 60


def test_what_is_published_tells_its_source_its_time_and_its_id(services: Services, executor: Executor) -> None:
    source = "exports.handler = async () => await events.publish('order.updated', { id: 3 })"
    assert result(services, executor, source) is True
    told = events.payload_of(Event.get())
    assert (told["name"], told["data"], told["source"]) == ("order.updated", {"id": 3}, "hello")
    assert told["id"] and told["time"]


@pytest.fixture
def shop(services: Services, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A data source with rows of two tenants."""
    folder = tmp_path_factory.mktemp("sources")
    object.__setattr__(services.settings, "data_sources", folder)
    (folder / WORKSPACE).mkdir()
    with sqlite3.connect(folder / WORKSPACE / "shop.db") as connection:
        connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, tenant_id TEXT, name TEXT)")
        connection.executemany("INSERT INTO items VALUES (?, ?, ?)", [
            *((number, WORKSPACE, "mine") for number in range(1001)), (5000, "other", "CANARY"),
        ])  # fmt: skip
    connection.close()
    new_script(services, slug="first")  # the workspace is there from now on
    assert Workspace.get_or_none(Workspace.id == WORKSPACE) is not None
    datasources.register(services, WORKSPACE, NewSource("default", "sqlite", {"file": "shop.db"}), "alice")


@pytest.mark.usefixtures("shop")
def test_the_errors_of_the_contract_begin_with_its_words(services: Services, executor: Executor) -> None:
    source = """exports.handler = async () => {
        const said = [];
        for (const [method, ...given] of [
            ['execute', 'DROP TABLE items', []], ['execute', 'GRANT ALL ON items TO eve', []],
            ['query', "SELECT id FROM items WHERE name = '" + 'mine' + "'", []],
            ['query', 'SELECT id FROM items', []],
        ]) await sdk.db[method](...given).catch((error) => said.push(error.message.split(':')[0]));
        await sdk.http.get('http://169.254.169.254/').catch((error) => said.push(error.message.split(':')[0]));
        return said }"""
    assert result(services, executor, source) == [
        "Unauthorized operation", "Unauthorized operation", "SQL injection detected", "Row limit exceeded",
        "SSRF protection",
    ]  # fmt: skip


@pytest.mark.usefixtures("shop")
def test_statements_give_what_the_contract_says(services: Services, executor: Executor) -> None:
    source = """exports.handler = async () => [
        await sdk.db.query('SELECT name FROM items WHERE id IN (?, ?)', [7, 5000]),
        await sdk.db.queryOne('SELECT id FROM items WHERE id = ?', [7]),
        await sdk.db.queryOne('SELECT id FROM items WHERE id = ?', [5000]),
        await sdk.db.execute('UPDATE items SET name = ? WHERE id IN (?, ?)', ['new', 7, 5000]),
        (await sdk.db.query('SELECT id FROM items WHERE id < ?', [1000])).length ]"""
    assert result(services, executor, source) == [[{"name": "mine"}], {"id": 7}, None, 1, 1000]
