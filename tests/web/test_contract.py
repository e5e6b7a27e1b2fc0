"""The API against its own OpenAPI: whatever schemathesis thinks of is answered as the schema says."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
pytest.importorskip("fastapi", reason="the [web] extra is not installed")


@pytest.fixture(scope="module")
def service(drawn):
    from siamese_search.web.options import ServeOptions
    from siamese_search.web.service import GalleryService

    hosts = ("testserver", "localhost")
    found = GalleryService(ServeOptions(store=str(drawn.store), read_only=True, allow_host=hosts))
    yield found
    found.close()


def test_answers_are_what_the_schema_says(service):
    """Of each operation a few dozen requests, valid ones and others: no inner error, and nothing undocumented."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    from siamese_search.web.app import create_app

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    app = create_app(service)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    names, statuses = set(), set()
    for found in schema.get_all_operations():
        operation = found.ok()
        names.add(operation.label)

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case):
            answer = case.call()
            statuses.add(answer.status_code)
            assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text}"
            case.validate_response(answer, checks=checks)

        ask()
    assert len(names) == sum(map(len, app.openapi()["paths"].values()))
    assert {200, 400, 404, 409} <= statuses
