"""Requests that the document describes or forbids, sent to a running service: every response is documented.

Hundreds of requests here, thousands in `make soak`. Whether a value that fits the schema is accepted is not
checked: no schema says that two phones must differ, or that they must be of one country.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from bindings.web.api import openapi
from bindings.web.rate_limit import AttemptLimiter
from tests.service.harness import C, D

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy
    from schemathesis import Case

    from tests.web.conftest import Running

CHECKS: list[Any] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.ignored_auth,
]


class Fuzz:
    """Sends requests generated from the document's schemas, and checks the responses."""

    def __init__(self, running: Running) -> None:
        self.statuses: Counter[int] = Counter()
        self._running = running
        self._key = running.key("admin", "fuzz", rate_limit=100_000)
        responses = [running.bind(self._key), running.bind(self._key, phone_a=C, phone_b=D)]
        self._ids = [response.json()["id"] for response in responses]

    def run(self, *, examples: int) -> None:
        """Send `examples` requests of each kind for each operation, the same ones in every run."""
        limited = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        for cases in self._strategies():
            with suppress(Unsatisfiable):  # nothing can be wrong about a request without parameters
                limited(given(case=cases)(self._send))()

    def _strategies(self) -> Iterator[SearchStrategy[Case[Any]]]:
        """Yield valid and invalid requests for each operation, also for existing bindings."""
        document = copy.deepcopy(openapi.document())
        feed = document["paths"]["/v1/events"]["get"]
        feed["parameters"] = [
            parameter for parameter in feed["parameters"] if parameter["name"] != "wait_s"
        ]  # it waits
        schema = schemathesis.openapi.from_dict(document)
        # A parameter too many may be an empty list, which is nothing in an address; and every request has the key.
        schema.config.generation.update(allow_extra_parameters=False, with_security_parameters=False)
        for result in schema.get_all_operations():
            operation = result.ok()  # type: ignore[union-attr]  # or it raises
            for mode in GenerationMode:
                yield operation.as_strategy(generation_mode=mode)
                if "{binding_id}" in operation.path:
                    for binding_id in self._ids:
                        path_parameters = {"binding_id": binding_id}
                        yield operation.as_strategy(generation_mode=mode, path_parameters=path_parameters)

    def _send(self, case: Case[Any]) -> None:
        session, url = self._running.session, self._running.url
        answer = case.call(base_url=url, session=session, headers=self._key, timeout=300)
        self.statuses[answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code in (502, 503), answer.text
        case.validate_response(answer, checks=CHECKS, headers=self._key)

    def report(self) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.statuses.total()} requests from the document: {counts}"


@pytest.fixture(autouse=True)
def _unlimited_failed_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every key that is not valid with 401: one of the checks sends more of them than the limit allows."""
    monkeypatch.setattr(AttemptLimiter, "take", lambda *_: True)


def fuzz(running: Running, capsys: pytest.CaptureFixture[str], *, examples: int) -> Fuzz:
    sent = Fuzz(running)
    sent.run(examples=examples)
    with capsys.disabled():
        sys.stdout.write(f"\n{sent.report()}\n")
    return sent


def test_R9_requests_of_the_document_get_only_documented_responses(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = fuzz(running, capsys, examples=6)
    assert sent.statuses.total() > 100
    assert {200, 400, 404, 422} <= sent.statuses.keys()


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_R9_thousands_of_requests_get_only_documented_responses(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fuzz(running, capsys, examples=300).statuses.total() > 5_000


def test_examples_of_the_document_are_accepted(running: Running) -> None:
    document = json.loads(openapi.document_bytes())
    schema = schemathesis.openapi.from_dict(document)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            examples = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples")
            )
            if examples is None or "{binding_id}" in path:
                continue
            case = schema[path][method].Case(body=examples["usual"]["value"], media_type="application/json")
            answer = case.call(base_url=running.url, session=running.session)
            assert answer.status_code in (200, 201), (path, answer.text)
            case.validate_response(answer, checks=CHECKS[:4])
