"""The running service follows /openapi.json: it answers as documented, and never with a 500."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.gateway import Gateway, seed

PATHS = r"^/(admin|user|me|login|logout|readyz|healthz|metrics|v1/|v1beta/)"
# What has every worker read everything anew, again and again.
LEFT_OUT = ["/admin/reload"]
OF_EACH = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def running(vendor, tmp_path_factory):
    found = Gateway(tmp_path_factory.mktemp("openapi"), seed(vendor.url), 2).start()
    # Of a user and key whose ids nobody guesses.
    found.post("/admin/users/upsert", {"id": 48_611, "name": "the tester", "is_admin": True})
    for _ in range(30):
        found.key = found.post("/admin/user-keys/generate", {"user_id": 48_611}).json["api_key"]
    yield found
    found.stop()


def test_it_is_one_document_of_every_route(running):
    reply = running.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json"
    found = reply.json
    assert found["openapi"].startswith("3.1")
    paths = found["paths"]
    assert {
        *("/v1/chat/completions", "/{provider}/v1/messages", "/v1beta/models/{model}:{action}", "/login", "/me"),
        *("/metrics", "/admin/explain", "/admin/requests/upstream/query", "/user/limits", "/readyz"),
    } <= set(paths)
    assert not {"/v1/files", "/console", "/admin/{tail}"} & set(paths)  # these answer 501
    assert paths["/login"]["post"]["security"] == []
    body = paths["/admin/usages/query"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = found["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert schema["properties"]["user_id"]["anyOf"][0]["type"] == "integer"
    limits = found["components"]["schemas"]["AccessLimit"]["properties"]
    assert limits["rpm"]["type"] == ["integer", "null"]
    operations = [one["operationId"] for path in paths.values() for one in path.values()]
    assert len(set(operations)) == len(operations)


def test_the_service_follows_its_description(running):
    """Calls each operation with values that its schema allows and with values that it forbids."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json").include(path_regex=PATHS)
    seen: Counter[int] = Counter()
    operations = [found.ok() for found in schema.exclude(path=LEFT_OUT).get_all_operations()]

    def check(case) -> None:
        answer = case.call(base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}, timeout=20)
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=[status_code_conformance, response_schema_conformance])
        assert answer.status_code != 500, (case.operation.label, answer.text)

    for operation in operations:
        OF_EACH(given(case=operation.as_strategy())(check))()
    assert len(operations) > 80
    assert seen[200] > 100
    assert seen[400] > 100
    assert "Traceback" not in running.log
