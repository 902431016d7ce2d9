import json
import re
from typing import Any

import openapi_spec_validator
import pytest
from flask import Flask

from tests.web.conftest import API

EXTENSION_OPERATIONS = {
    ("post", "/scripts/{script_id}/batches"), ("get", "/scripts/{script_id}/batches"),
    ("get", "/scripts/{script_id}/batches/{batch_id}"), ("get", "/scripts/{script_id}/batches/{batch_id}/runs"),
    ("post", "/scripts/{script_id}/batches/{batch_id}/cancel"),
    ("get", "/scripts/{script_id}/runs/{run_id}/callback"),
    ("post", "/scripts/{script_id}/runs/{run_id}/callback/redeliver"),
    ("get", "/limits"), ("get", "/audit"), ("get", "/dead-letters"), ("post", "/dead-letters/{letter_id}/redrive"),
    ("post", "/runs/replay"), ("post", "/scripts/{script_id}/runs/{run_id}/replay"),
    ("get", "/scripts/{script_id}/runs/{run_id}/attempts"),
    ("get", "/runs"), ("post", "/events"), ("get", "/events"), ("get", "/events/{event_id}"),
    ("get", "/scripts/{script_id}/schedule"), ("get", "/scripts/{script_id}/schedule/firings"),
    ("post", "/scripts/{script_id}/schedule/pause"),
    ("post", "/scripts/{script_id}/schedule/resume"), ("post", "/scripts/{script_id}/schedule/backfill"),
    ("get", "/scripts/{script_id}/versions"), ("get", "/scripts/{script_id}/versions/{number}/diff"),
    ("post", "/scripts/{script_id}/rollback"), ("post", "/scripts/{script_id}/runs/{run_id}/cancel"),
    ("get", "/scripts/{script_id}/runs/{run_id}/result"), ("get", "/scripts/{script_id}/runs/{run_id}/artifacts"),
    ("get", "/scripts/{script_id}/runs/{run_id}/logs/stream"),
}  # fmt: skip
PUBLISHED_OPERATIONS = {
    ("post", "/scripts"), ("get", "/scripts"), ("get", "/scripts/{script_id}"), ("put", "/scripts/{script_id}"),
    ("delete", "/scripts/{script_id}"), ("post", "/scripts/{script_id}/execute"), ("get", "/scripts/{script_id}/runs"),
    ("get", "/scripts/{script_id}/runs/{run_id}"), ("get", "/scripts/{script_id}/runs/{run_id}/logs"),
    ("get", "/runtimes"), ("get", "/runtimes/{runtime}/libraries"),
}  # fmt: skip


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    """The document as a stranger gets it."""
    found = app.test_client().get("/openapi.json").json
    assert found is not None
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every operation by method and path below the API's root."""
    return {
        (method, path.removeprefix(API)): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)


def test_it_lists_every_operation_and_marks_the_extensions(document: dict[str, Any]) -> None:
    found = operations(document)
    assert set(found) == PUBLISHED_OPERATIONS | EXTENSION_OPERATIONS
    assert {key for key, operation in found.items() if operation.get("x-extension")} == EXTENSION_OPERATIONS
    assert all(operation["summary"] for operation in found.values())


def test_it_lists_every_route_of_the_api(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).removeprefix(API))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(API)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == set(operations(document))


def test_fields_that_smartsuite_does_not_have_are_marked(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    marked = {
        f"{name}.{field}"
        for name in ("ScriptCreate", "ScriptUpdate", "Script", "Run", "Execute")
        for field, shape in schemas[name]["properties"].items()
        if shape.get("x-extension")
    }
    both = {"time_zone", "schedule_policy", "isolation", "max_concurrent_runs", "egress_hosts", "triggers", "retry",
            "concurrency", "callback_url", "callback_secret"}  # fmt: skip
    execute = {"delay_seconds", "run_at", "priority", "expires_after", "debounce", "callback_url"}
    run = {"error_code", "error_stack", "waiting_reason", "waiting_place", "attempt", "replay_of", "usage", "batch_id",
           "batch_index"}  # fmt: skip
    assert marked == {
        *(f"ScriptCreate.{field}" for field in both), *(f"ScriptUpdate.{field}" for field in {*both, "status"}),
        *(f"Script.{field}" for field in both), *(f"Execute.{field}" for field in execute),
        *(f"Run.{field}" for field in run),
    }  # fmt: skip


def test_requests_refuse_what_they_do_not_know(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ScriptCreate", "ScriptUpdate", "Execute", "BatchCreate", "Publish", "Rollback", "Triggers",
                 "HttpTrigger"):  # fmt: skip
        assert schemas[name]["additionalProperties"] is False


def test_every_operation_documents_what_all_may_answer(document: dict[str, Any]) -> None:
    assert document["security"] == [{"ApiKey": [], "AccountId": []}]
    for operation in operations(document).values():
        assert {"400", "401", "404", "500", "503"} <= set(operation["responses"])
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                name = answer["$ref"].rsplit("/", 1)[1]
                content = document["components"]["responses"][name]["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}


def test_execute_documents_both_answers_and_its_refusals(document: dict[str, Any]) -> None:
    execute = operations(document)["post", "/scripts/{script_id}/execute"]
    assert {"200", "202", "409", "413", "415", "422", "429"} <= set(execute["responses"])
    assert "Idempotency-Key" in {parameter["name"] for parameter in execute["parameters"]}
    assert execute["requestBody"]["required"] is True


def test_headers_that_answers_carry_are_in_the_document(document: dict[str, Any]) -> None:
    refusals = document["components"]["responses"]
    assert set(refusals["TOO_MANY_REQUESTS"]["headers"]) == {"Retry-After"}
    assert set(refusals["SERVICE_UNAVAILABLE"]["headers"]) == {"Retry-After"}
    assert set(refusals["UNAUTHORIZED"]["headers"]) == {"WWW-Authenticate"}
    answers = operations(document)["post", "/scripts/{script_id}/execute"]["responses"]
    assert [set(answers[status]["headers"]) for status in ("200", "202")] == [{"Idempotent-Replayed"}] * 2


def test_it_holds_nothing_that_no_operation_uses(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    unused = [
        name
        for kind in ("schemas", "responses")
        for name in document["components"][kind]
        if f'"#/components/{kind}/{name}"' not in text
    ]
    assert unused == []
