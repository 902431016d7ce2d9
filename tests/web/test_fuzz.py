"""The API against its own document: no failure of ours and no answer that is not in it, whatever is asked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import hypothesis
import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.specs.openapi import checks

from millrace import batches, deadletters, events, scripts
from millrace.models import DeadLetter, Script
from millrace.services import Services
from tests import factories
from tests.factories import Tenant

EXAMPLES = 10
OPERATIONS = 41
NOT_ASKED = [
    checks.negative_data_rejection,  # takes for bad what is read well, such as 5.0 for 5
    checks.positive_data_acceptance,  # takes for good what no schema can say: a hash that fits, a name that is there
    checks.use_after_free,
    checks.ensure_resource_availability,
]


@dataclass(frozen=True)
class Known:
    """What is there to be met: a script, a run of it that is over, with a log, and an event."""

    headers: dict[str, str]
    path_parameters: dict[str, Any]
    query: dict[str, Any]


@pytest.fixture
def known(services: Services, hello: Script, alice: Tenant) -> Known:
    """Something for the cases to meet."""
    told = {"callback_url": "https://example.com/told"}
    scripts.update(services, hello, scripts.Change(columns=told, schedule="daily"))
    run = factories.claim(services, factories.run(services, hello))
    factories.log(services, run, "a line")
    factories.finish(services, run, log_chunks=1)
    event = events.publish(services, alice.id, "order.paid", {"total": 1})
    deadletters.record(services, hello, run.id, "It failed once.", services.clock())
    letter = DeadLetter.get()
    wish = batches.Wish(workspace=alice.id, script=hello.uuid, items=[{}] * 3, concurrency=1)
    batch = batches.submit(services, wish).batch
    there = {"script_id": "hello", "run_id": run.id, "number": 1, "runtime": "nodejs20", "event_id": event.id,
             "letter_id": letter.id, "batch_id": batch.id}  # fmt: skip
    return Known(alice.headers, there, {"against": 1})


@pytest.fixture
def schema(app: Flask, services: Services, known: Known) -> Iterator[schemathesis.BaseSchema]:
    """The document, and a worker that ends whatever is executed."""
    with factories.worker(services):
        yield schemathesis.openapi.from_wsgi("/openapi.json", app)


def aim(case: Case, known: Known, dice: int) -> None:
    """Let a part of the cases meet things that are there, and sources that fit their hashes."""
    if case.operation.path.endswith("/runs/replay") and isinstance(case.body, dict):
        case.body["limit"] = 2  # else each case would double what there is
    if dice % 3:
        for name in case.path_parameters:
            case.path_parameters[name] = known.path_parameters[name]
        for name in case.query or {}:
            case.query[name] = known.query.get(name, case.query[name])
        if isinstance(case.body, dict) and isinstance(case.body.get("version"), int):
            case.body["version"] = 1
        if isinstance(case.body, dict) and {"from", "until"} <= set(case.body):
            case.body |= {"from": "2026-01-01T00:00:00Z", "until": "2026-01-03T00:00:00Z"}
        if isinstance(case.body, dict) and "trigger_type" in case.body:
            for name in ("delay_seconds", "run_at", "debounce", "priority", "expires_after", "callback_url"):
                case.body.pop(name, None)
    if dice % 2 and isinstance(case.body, dict) and "script_content" in case.body:
        case.body |= factories.upload()
        for name in ("entry_point", "secrets", "triggers", "schedule", "time_zone", "schedule_policy", "egress_hosts",
                     "callback_url", "callback_secret"):  # fmt: skip
            case.body.pop(name, None)
        if "id" in case.body:
            case.body |= {"id": f"made-{dice % 5}", "runtime": "nodejs20"}


def ask(operation: APIOperation, mode: GenerationMode, known: Known) -> set[int]:
    """Ask a number of times; what was answered. Fails for an answer that the document does not have."""
    answers: set[int] = set()

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), dice=st.integers(0, 1000))
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def each(case: Case, dice: int) -> None:
        aim(case, known, dice)
        response = case.call_and_validate(headers=known.headers, excluded_checks=NOT_ASKED)
        answers.add(response.status_code)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            assert set(json.loads(response.content)["error"]) == {"code", "message", "details"}

    each()
    return answers


def _in_order(schema: schemathesis.BaseSchema) -> list[APIOperation]:
    """Every operation; what deletes comes last, and before it what may make a script inactive."""
    operations = [found.ok() for found in schema.get_all_operations()]
    return sorted(operations, key=lambda operation: ("put", "delete").index(operation.method) + 1
                  if operation.method in ("put", "delete") else 0)  # fmt: skip


def test_no_sensible_request_gets_an_answer_that_is_not_documented(
    schema: schemathesis.BaseSchema, known: Known
) -> None:
    answers = {
        f"{operation.method} {operation.path}": ask(operation, GenerationMode.POSITIVE, known)
        for operation in _in_order(schema)
    }
    assert len(answers) == OPERATIONS
    # The cases went deep: every operation succeeded at least once.
    assert {name for name, statuses in answers.items() if not statuses & {200, 201, 202, 204, 409}} <= {
        # A case may have removed the script's schedule, or made it inactive.
        "get /v1/scripting/scripts/{script_id}/schedule",
        "post /v1/scripting/scripts/{script_id}/schedule/pause",
        "post /v1/scripting/scripts/{script_id}/schedule/resume",
        "post /v1/scripting/scripts/{script_id}/schedule/backfill",
    }


def test_no_nonsense_gets_an_answer_that_is_not_documented(schema: schemathesis.BaseSchema, known: Known) -> None:
    answers: set[int] = set()
    asked = 0
    for operation in _in_order(schema):
        try:
            answers |= ask(operation, GenerationMode.NEGATIVE, known)
        except hypothesis.errors.Unsatisfiable:
            continue  # an operation without input has no bad input
        asked += 1
    assert asked >= OPERATIONS - 4
    assert HTTPStatus.BAD_REQUEST in answers
