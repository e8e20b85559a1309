"""Limits of what a request may cost: bytes, fields and headers, at the border and beyond it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from bindings.errors import InvalidRequest
from bindings.validation.fields import LIMITS, position_after
from bindings.web import http_protocol, middleware, problems
from bindings.web.api import openapi, requests
from tests.service.harness import NOON
from tests.store.databases import migrated_file
from tests.web.conftest import alone
from tests.web.wire import posted, problem, request, speak, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Running

ESCAPED = "\N{GRINNING FACE}"  # one character, twelve bytes of JSON in ASCII
LONGEST: dict[str, Any] = {name: ESCAPED * limit for name, limit in LIMITS.items()} | {
    "reference_prefix": ESCAPED * LIMITS["reference"],
    "reveal": {"reason": ESCAPED * LIMITS["reason"]},
    "cursor": position_after(NOON.replace(microsecond=123_456), "01890000-0000-7000-8000-000000000000"),
    "middle_number": "+" + "1" * 32,
    "pool_number": "a" * 20,
    "state": "in_doubt",
    "mode": "AXXB",
}


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one service for all tests, on SQLite: what is tested here does not depend on the database."""
    with alone(f"sqlite:///{migrated_file(tmp_path_factory.mktemp('limits'))}") as running:
        yield running


def longest_value(name: str) -> Any:
    """Return the longest value of a field; those without a limit of their own are a phone, a time or a number."""
    return LONGEST.get(name, "2026-01-01T00:00:00.123456+05:30")


def test_limit_fits_the_longest_body_of_every_call() -> None:
    models = {operation.body for operation in openapi.operations().values() if operation.body is not None}
    sizes = {}
    for model in models:
        values = {field.name: longest_value(field.name) for field in structs.fields(model)}
        body = json.dumps(values).encode()
        assert requests.read_body(model, body) == values
        sizes[model] = len(body)
    assert max(sizes, key=sizes.__getitem__) is requests.Search
    assert 0.95 * middleware.MAX_BODY_BYTES < sizes[requests.Search] <= middleware.MAX_BODY_BYTES


def test_body_over_the_limit_is_refused_unread_with_the_limit(
    listening: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    parse = requests._parse_json

    def parse_json(raw: bytes, repeated: list[str]) -> Any:
        parsed.append(len(raw))
        return parse(raw, repeated)

    monkeypatch.setattr(requests, "_parse_json", parse_json)
    fields = json.dumps(names(7_000)).encode()
    error = problem(speak(listening, posted(fields, path="/v1/lookup")))
    assert (error["status"], error["code"], parsed) == (413, "too-large", [])
    assert f"{middleware.MAX_BODY_BYTES // 1024} KiB" in error["detail"]
    error = problem(speak(listening, posted(b" " * (middleware.MAX_BODY_BYTES - 2) + b"{}", path="/v1/lookup")))
    assert (error["status"], parsed) == (422, [middleware.MAX_BODY_BYTES])


def names(count: int) -> dict[str, int]:
    return {f"n{number}": 0 for number in range(count)}


def test_names_of_as_many_fields_as_allowed_are_listed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.read_body(requests.Lookup, json.dumps(names(problems.MAX_FIELDS)).encode())
    assert len(caught.value.field_errors) == problems.MAX_NAMED + 2  # the others, and that nothing is searched by


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(names(problems.MAX_FIELDS + 1)),
        json.dumps(names(1_100)),
        "{" + ",".join(['"phone":"1"'] * 1_100) + "}",
        json.dumps({"phone": [{} for _ in range(4_000)]}),
        "{" + ",".join(['"phone":{"a":0,"a":0}'] * 700) + "}",
        json.dumps({"reveal": names(problems.MAX_FIELDS)}),
    ],
    ids=["one name more", "unknown names", "repeated names", "objects", "repeated names in objects", "in a field"],
)
def test_body_with_too_many_fields_is_refused_without_a_look_at_them(
    monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """What is counted is the names that are compared or counted, and the errors that are made."""
    looked_at: list[str] = []

    def count(pairs: Any) -> Counter[str]:
        looked_at.extend(pairs := list(pairs))
        return Counter(pairs)

    monkeypatch.setattr(requests, "Counter", count)
    monkeypatch.setattr(requests, "_name_errors", lambda *_: looked_at.append("errors"))
    with pytest.raises(InvalidRequest) as caught:
        requests.read_body(requests.Lookup, body.encode())
    assert [(error.field, error.message) for error in caught.value.field_errors] == [
        ("body", "must have at most 64 fields")
    ]
    assert len(looked_at) <= problems.MAX_FIELDS


def test_query_with_too_many_fields_is_refused_before_it_is_parsed(listening: Running) -> None:
    for count, field in ((problems.MAX_FIELDS, "(unnamed)"), (problems.MAX_FIELDS + 1, "query")):
        query = "&".join(f"{number}=" for number in range(count))
        for method, path in (("GET", "/v1/bindings"), ("POST", "/v1/lookup")):
            error = problem(speak(listening, request(b"", method=method, path=f"{path}?{query}")))
            assert (error["status"], error["errors"][0]["field"]) == (422, field)


def test_request_with_too_many_headers_is_refused_before_it_is_complete(listening: Running) -> None:
    own = 2  # Host and Connection
    for count, expected in ((http_protocol.MAX_HEADERS, 200), (http_protocol.MAX_HEADERS + 1, 431)):
        added = [f"X-{number}: a" for number in range(count - own)]
        assert status(speak(listening, request(b"", *added, path="/livez", method="GET"))) == expected
    unfinished = "GET /livez HTTP/1.1\r\n" + "X: a\r\n" * (
        http_protocol.MAX_HEADERS + 2
    )  # the parser holds the last one back
    error = problem(speak(listening, unfinished.encode()))
    assert (error["code"], f"{http_protocol.MAX_HEADERS} headers" in error["detail"]) == ("head-too-large", True)
