"""The API keeps what its published schema says, for requests that nobody thought of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from django.test import Client
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from atom.models import ApiKey
from atom.tenancy import tenant_scope
from tests.graphs import one_of_everything

CHECKS = (
    schemathesis.checks.not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
)  # fmt: skip
EXAMPLES = 20
OPERATIONS = {
    "start_historical_sync", "list_historical_sync_jobs", "get_historical_sync_job", "cancel_historical_sync_job",
    "pause_historical_sync_job", "resume_historical_sync_job",
}  # fmt: skip
# Beside the contract's. Those of partitions, and those that connect and disconnect, ask a provider.
READING = {
    "list_connections", "get_connection", "list_entities", "get_entity", "list_relationships", "list_records", "get_record",
    "list_all_historical_sync_jobs", "list_historical_sync_job_events", "list_historical_sync_job_failures",
    "list_historical_sync_job_quarantined", "replay_historical_sync_job", "get_connection_coverage",
}  # fmt: skip


pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def published(live_cast: SimpleNamespace) -> dict[str, Any]:
    reply = Client().get("/api/schema", {"format": "json"})
    assert reply.status_code == 200
    return dict(reply.json())


def test_the_schema_describes_the_contracts_operations(published: dict[str, Any]) -> None:
    found = {op["operationId"]: op for path in published["paths"].values() for op in path.values()}
    assert set(found) == OPERATIONS | READING | {
        "get_connection_partitions",
        "narrow_connection",
        "connect",
        "disconnect",
    }
    for name in OPERATIONS:
        assert {"401", "403", "404", "406", "429"} <= set(found[name]["responses"]), name
        assert found[name]["responses"]["429"]["headers"]["Retry-After"]["schema"]["type"] == "integer", name
    for name in ("get_connection_partitions", "narrow_connection"):
        assert {"200", "401", "403", "404", "409", "429"} <= set(found[name]["responses"]), name


def test_null_is_allowed_in_so_many_words_where_it_may_come(published: dict[str, Any]) -> None:
    """`nullable` means something beside a `type` only (OpenAPI 3.0.3): strict validators refuse the null that a reference does not allow."""
    components = published["components"]["schemas"]

    def allows_null(schema: dict[str, Any]) -> bool:
        schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        return None in schema.get("enum", ()) or ("type" in schema and schema.get("nullable", False))

    for name, component in components.items():
        for field, schema in component.get("properties", {}).items():
            if schema.get("nullable"):
                assert allows_null(schema) or any(map(allows_null, schema.get("oneOf", ()))), f"{name}.{field}"


@pytest.mark.parametrize("path", ["/api/entities", "/api/relationships"])
def test_a_page_may_have_as_many_results_as_is_published(
    live_cast: SimpleNamespace, published: dict[str, Any], path: str
) -> None:
    with tenant_scope(live_cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=live_cast.acme, role="member", name="schema")
    size = next(one["schema"] for one in published["paths"][path]["get"]["parameters"] if one["name"] == "page_size")

    def status(asked: int) -> int:
        return Client().get(path, {"page_size": asked}, headers={"Authorization": f"Api-Key {key}"}).status_code

    assert [status(size[end]) for end in ("minimum", "default", "maximum")] == [200, 200, 200]
    assert [status(size["minimum"] - 1), status(size["maximum"] + 1)] == [400, 400]


def test_answers_are_as_published(live_cast: SimpleNamespace, published: dict[str, Any]) -> None:
    made = one_of_everything(live_cast.acme)
    real_ones = {
        "job_id": made.job.id, "integration_id": made.connection.id, "connection_id": made.connection.id, "entity_id": made.entity.id,
        "record_id": made.record.id,
    }  # fmt: skip
    with tenant_scope(live_cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=live_cast.acme, role="member", name="schema")
    schema = schemathesis.openapi.from_dict(published)
    schema.app = get_wsgi_application()
    tried: set[str] = set()

    for operation in (found.ok() for found in schema.get_all_operations()):
        name = operation.definition.raw["operationId"]
        if name not in OPERATIONS | READING:
            continue

        @seed(20)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), real=st.booleans())
        def holds(case: Any, real: bool) -> None:
            # Half of the requests are about something that there is.
            for name in case.path_parameters or () if real else ():
                case.path_parameters[name] = str(real_ones[name])
            response = case.call(headers={"Authorization": f"Api-Key {key}"})
            tried.add(case.operation.definition.raw["operationId"])
            case.validate_response(response, checks=CHECKS)

        holds()
    assert tried == OPERATIONS | READING
