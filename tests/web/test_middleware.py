"""Checks of every request: malformed bodies, headers and paths, over a raw socket where needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bindings.web import middleware
from tests.service.harness import A
from tests.web.conftest import BIND
from tests.web.wire import JSON, request, speak, status

if TYPE_CHECKING:
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"\xff\xfe{}", b'{"phone_a": "\xff"}', b"[" * 15_000, b"{} {}", b"\x00"],
)
def test_body_that_is_not_json_is_refused(running: Running, body: bytes) -> None:
    answer = speak(running, request(body, JSON, f"Content-Length: {len(body)}"))
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (status(answer), problem["code"]) in {(400, "malformed"), (422, "invalid-request")}
    assert problem["code"] == "malformed" or body == b""


@pytest.mark.parametrize("body", [b"[]", b"5", b'"text"', b"null", b"true"])
def test_body_that_is_not_an_object_is_refused(running: Running, body: bytes) -> None:
    answer = speak(running, request(body, JSON, f"Content-Length: {len(body)}"))
    assert status(answer) == 422
    faults = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert faults == [{"field": "body", "message": "must be an object"}]


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/jsonx",
        "multipart/form-data; boundary=x",
        "",
    ],
)
def test_body_of_another_media_type_is_refused(running: Running, content_type: str) -> None:
    body = json.dumps(BIND).encode()
    answer = speak(running, request(body, f"Content-Type: {content_type}", f"Content-Length: {len(body)}"))
    assert status(answer) == 415


@pytest.mark.parametrize("path", ["/v2/bindings", "/V1/bindings", "/api/v1/bindings", "/bindings"])
def test_json_outside_of_the_paths_of_calls_is_refused_with_where_they_are(running: Running, path: str) -> None:
    response = running.session.post(running.url + path, json=BIND, timeout=300)
    assert response.status_code == 415
    assert "the paths of calls begin with /v1" in response.json()["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; Charset=UTF-8",
        "application/json;",
        "application/json; charset=utf8",
        'application/json;charset="utf-8";',
    ],
)
def test_media_type_is_accepted_however_clients_write_it(running: Running, content_type: str) -> None:
    body = json.dumps(BIND).encode()
    answer = speak(running, request(body, f"Content-Type: {content_type}", f"Content-Length: {len(body)}"))
    assert status(answer) == 201


def test_media_type_with_many_spaces_is_refused_immediately(running: Running) -> None:
    """The event loop reads it: a second for it is a second in which no caller gets an answer."""
    media_type = "application/json; charset=utf-8" + " " * 15_000 + "x"
    headers = {"Content-Type": media_type}
    response = running.session.post(running.url + "/v1/bindings", data=b"{}", headers=headers, timeout=4)
    assert response.status_code == 415


def test_too_long_content_length_is_refused_before_the_body(running: Running) -> None:
    answer = speak(running, request(b"", JSON, f"Content-Length: {middleware.MAX_BODY_BYTES + 1}"))
    assert (status(answer), b"too-large" in answer) == (413, True)


def test_chunked_body_is_refused_when_it_is_too_large(running: Running) -> None:
    chunk = b"1000\r\n" + b" " * 4_096 + b"\r\n"
    answer = speak(running, request(chunk * 5, JSON, "Transfer-Encoding: chunked"))
    assert status(answer) == 413


def test_incomplete_body_times_out(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_DEADLINE_S", 0.2)
    answer = speak(running, request(b"{", JSON, "Content-Length: 10"))
    assert status(answer) == 408


def test_smuggled_request_is_not_handled(running: Running) -> None:
    body = b"0\r\n\r\nGET /v1/bindings HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = request(body, JSON, f"Content-Length: {len(body)}", "Transfer-Encoding: chunked")
    answer = speak(running, both)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert 400 <= status(answer) < 500


@pytest.mark.parametrize(
    ("sent_id", "is_kept"),
    [
        ("order-42", True),
        ("8c1f6c1e-9d0e", True),
        (A, False),
        ("+" + A, False),
        ("a b", False),
        ("x" * 129, False),
    ],
)
def test_request_id_is_kept_unless_it_may_be_a_phone(running: Running, sent_id: str, is_kept: bool) -> None:
    answer = running.get("/v1/bindings", {"X-Request-ID": sent_id})
    assert (answer.headers["X-Request-ID"] == sent_id) == is_kept
    assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "//nothing", 404),
        ("GET", "/v1/bindings/../../etc/passwd", 404),
        ("GET", "/docs/static/../index.html", 404),
        ("DELETE", "/v1/bindings", 405),
        ("PUT", "/v1/lookup", 405),
        ("GET", "/v1/lookup", 405),
    ],
)
def test_unknown_path_or_method_returns_a_problem(running: Running, method: str, path: str, expected: int) -> None:
    answer = speak(running, request(b"", method=method, path=path))
    assert status(answer) == expected
    assert b"application/problem+json" in answer
    if expected == 405:
        assert b"\r\nallow: " in answer.lower()


def test_invalid_idempotency_key_is_named_as_the_header(running: Running) -> None:
    for key in ("", "x" * 256):
        refused = running.bind(headers={"Idempotency-Key": key})
        assert refused.status_code == 422
        assert [fault["field"] for fault in refused.json()["errors"]] == ["Idempotency-Key"]
    body = json.dumps(BIND).encode()
    twice = ("Idempotency-Key: a", "Idempotency-Key: b")
    assert status(speak(running, request(body, JSON, f"Content-Length: {len(body)}", *twice))) == 422


def test_every_response_forbids_caching(running: Running) -> None:
    for path in ("/livez", "/v1/bindings", "/v1/nothing"):
        headers = running.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
