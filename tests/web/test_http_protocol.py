"""Invalid input, byte by byte: each has a documented response and leaves no connection open."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import re
import socket
import struct
import threading
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families as families
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from bindings.settings import load
from bindings.web import connections, http_protocol, middleware, open_files
from bindings.web.proxies import TrustedProxies
from tests.service.harness import A, wait_for
from tests.store.databases import migrated_file
from tests.web.conftest import BIND, alone
from tests.web.wire import JSON, connect, posted, problem, read_until_closed, request, speak, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Running

GOOD = json.dumps(BIND).encode()
TRACE = b'{"middle_number": "1", "at": "2026-01-01T00:00:00Z", "window_s": %s}'
MAX_BODY = middleware.MAX_BODY_BYTES


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one service for all tests, on SQLite: what is tested here does not depend on the database."""
    with alone(f"sqlite:///{migrated_file(tmp_path_factory.mktemp('bytes'))}") as running:
        yield running


def get(path: str, *headers: str) -> bytes:
    return request(b"", *headers, path=path, method="GET")


def chunked(*parts: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return request(framed + b"0\r\n\r\n", JSON, "Transfer-Encoding: chunked", path="/v1/lookup")


BODIES: dict[str, tuple[bytes, int, str]] = {
    "cut off": (posted(GOOD[:-1]), 400, "malformed"),
    "nested too deep": (posted(b'{"phone_a": ' * 1_300), 400, "malformed"),
    "nested a little": (posted(b'{"phone_a": ' * 100 + b"1" + b"}" * 100), 422, "invalid-request"),
    "a value nested deeply": (posted(GOOD.replace(b'"AXB"', b"[" * 400 + b"]" * 400)), 422, "invalid-request"),
    "an integer of thousands of digits": (posted(b'{"expire_s": %s}' % (b"1" * 5_000)), 400, "malformed"),
    "an integer of hundreds of digits": (posted(b'{"expire_s": %s}' % (b"1" * 400)), 422, "invalid-request"),
    "2 to the 63": (posted(json.dumps(BIND | {"expire_s": 2**63}).encode()), 422, "invalid-request"),
    "not a number": (posted(TRACE % b"NaN", path="/v1/trace"), 422, "invalid-request"),
    "infinity": (posted(TRACE % b"1e999", path="/v1/trace"), 422, "invalid-request"),
    "a lone surrogate": (posted(b'{"phone": "\\ud800"}', path="/v1/lookup"), 400, "malformed"),
    "a lone surrogate as a name": (posted(b'{"\\udfff": 1}', path="/v1/lookup"), 400, "malformed"),
    "a zero byte in a text": (posted(json.dumps(BIND | {"reference": "a\0b"}).encode()), 422, "invalid-request"),
    "UTF-16": (posted(json.dumps(BIND).encode("utf-16")), 400, "malformed"),
    "UTF-32": (posted(json.dumps(BIND).encode("utf-32")), 400, "malformed"),
    "a byte order mark": (posted(b"\xef\xbb\xbf" + GOOD), 400, "malformed"),
    "Latin-1": (posted(b'{"reference": "\xe9"}'), 400, "malformed"),
    "as large as it may be": (posted(b" " * (MAX_BODY - 2) + b"{}", path="/v1/lookup"), 422, "invalid-request"),
    "a byte too large": (posted(b" " * (MAX_BODY - 1) + b"{}", path="/v1/lookup"), 413, "too-large"),
    "far too large": (posted(b" " * 4_000_000, path="/v1/lookup"), 413, "too-large"),
    "chunks, as large as they may be": (
        chunked(*[b" " * 1_024] * (MAX_BODY // 1_024 - 1), b" " * 1_022, b"{}"),
        422,
        "invalid-request",
    ),
    "chunks, a byte too large": (
        chunked(*[b" " * 1_024] * (MAX_BODY // 1_024 - 1), b" " * 1_023, b"{}"),
        413,
        "too-large",
    ),
    "a byte in each chunk": (chunked(*[b" "] * 9_000, b"{}"), 422, "invalid-request"),
    "compressed": (posted(gzip.compress(GOOD), "Content-Encoding: gzip"), 415, "unsupported-media-type"),
}


@pytest.mark.parametrize("name", BODIES)
def test_malformed_body_is_refused_with_a_problem(listening: Running, name: str) -> None:
    sent, expected, code = BODIES[name]
    error = problem(speak(listening, sent))
    assert (error["status"], error["code"]) == (expected, code)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"phone_a": "9188067701",\n "phone_b" "9188067799"}', "the body is not JSON from line 2, column 12 on"),
        (b'{"phone_a": "9188067701"', "the body is not JSON from line 1, column 25 on"),
        (b'{"reference": "\xe9"}', "the body is not UTF-8"),
        (b"\xef\xbb\xbf" + GOOD, "the body begins with a byte order mark"),
    ],
)
def test_malformed_body_is_refused_with_its_place_and_nothing_of_it(
    listening: Running, body: bytes, detail: str
) -> None:
    assert problem(speak(listening, posted(body)))["detail"] == f"{detail}; nothing was done"


HEADS: dict[str, tuple[bytes, int]] = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/9.9": (b"GET /v1/bindings HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "a method that the parser does not know": (request(b"", method="BREW"), 400),
    "a method without a route": (request(b"", method="PROPFIND"), 405),
    "TRACE": (request(b"", method="TRACE"), 405),
    "CONNECT": (request(b"", method="CONNECT"), 405),
    "a negative length": (request(b"", JSON, "Content-Length: -1"), 400),
    "a length that is no number": (request(b"", JSON, "Content-Length: 2, 2"), 400),
    "a length beyond every number": (request(b"", JSON, f"Content-Length: {'9' * 5_000}"), 400),
    "a length of 2 to the 63": (request(b"", JSON, f"Content-Length: {2**63}", "Expect: 100-continue"), 413),
    "two lengths": (request(b"{}", JSON, "Content-Length: 2", "Content-Length: 3"), 400),
    "two equal lengths": (request(b"{}", JSON, "Content-Length: 2", "Content-Length: 2"), 400),
    "a length and chunks": (request(b"0\r\n\r\n", JSON, "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "chunks and a length": (request(b"0\r\n\r\n", JSON, "Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "another transfer encoding": (request(b"0\r\n\r\n", JSON, "Transfer-Encoding: gzip, chunked"), 400),
    "a transfer encoding spelt oddly": (request(b"0\r\n\r\n", JSON, "Transfer-Encoding: \x0bchunked"), 400),
    "an unknown transfer encoding": (request(b"{}", JSON, "Transfer-Encoding: xchunked"), 400),
    "a chunk without a size": (request(b"zz\r\n", JSON, "Transfer-Encoding: chunked"), 400),
    "a line that is folded": (get("/v1/bindings", "X-A: a\r\n b"), 400),
    "a space before a colon": (get("/v1/bindings", "X-A : a"), 400),
    "a zero byte": (get("/v1/bindings", "X-A: a\0b"), 400),
    "a bare return": (get("/v1/bindings", "X-A: a\rX-B: b"), 400),
    "two hosts": (get("/v1/bindings", "Host: elsewhere"), 400),
    "two types": (posted(b"{}", "Content-Type: text/plain"), 400),
    "two keys": (get("/v1/bindings", "Authorization: Bearer a", "Authorization: Bearer b"), 400),
    "a key of other letters": (get("/v1/bindings", "Authorization: Bearer bnd_" + "\xe9" * 33), 401),
    "a header that is too large": (get("/v1/bindings", f"X-A: {'a' * http_protocol.MAX_HEAD_BYTES}"), 431),
    "too many headers": (get("/v1/bindings", *(f"X-{number}: a" for number in range(9_000))), 431),
    "a query that is too large": (get(f"/v1/bindings?cursor={'A' * http_protocol.MAX_HEAD_BYTES}"), 431),
    "a head that never ends": (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1_000_000, 431),
    "an address of 64 KiB": (get("/v1/" + "a/" * 32_768), 400),
    "no address": (request(b"", path="", method="GET"), 400),
    "an address of other letters": (get("/v1/\xe9"), 400),
}


@pytest.mark.parametrize("name", HEADS)
def test_malformed_head_is_refused_with_a_problem(listening: Running, name: str) -> None:
    sent, expected = HEADS[name]
    answer = speak(listening, sent)
    assert status(answer) == expected
    assert problem(answer)["code"] != "internal"


PATHS = {
    "/v1/bindings/%2e%2e": 404,
    "/v1/bindings/../../../etc/passwd": 404,
    "/v1/bindings/%00": 404,
    "/v1/bindings/%ff%fe": 404,
    "/v1/bindings/a%2fb": 404,
    f"/v1/bindings/{'%F0%9F%98%80' * 100}": 404,
    "/docs/static/..%2f..%2fapi.py": 404,
    "/docs/static/%2e%2e/index.html": 404,
    "/docs/static/%2e%2e%2f%2e%2e%2fapi.py": 404,
    "/docs/static/..%5c..%5capi.py": 404,
    "/docs/static//etc/passwd": 404,
    "//v1/bindings": 404,
    "/v1//bindings": 404,
    "/docs/static/%00": 404,
    "/docs/static/": 404,
    f"/docs/static/{'x' * 5_000}": 404,
    f"/docs/static/{'%E2%82%AC' * 100}": 404,
    "*": 404,
    "/v1/bindings?limit=%ff": 400,
    "/v1/bindings?limit=%00": 422,
    "/v1/bindings?limit=1_0": 422,
    "/v1/bindings?limit=%D9%A1": 422,
    "/v1/bindings?limit=1&limit=1": 422,
    "/v1/bindings?limit=1;limit=2": 422,
    "/v1/bindings?limit": 422,
    "/v1/bindings?=": 422,
    "/v1/bindings?reference=%00": 422,
    "/v1/bindings?cursor=%F0%9F%98%80": 422,
    f"/v1/bindings?cursor={'A' * 9_000}": 422,
    "/v1/bindings?requested_from=0001-01-01T00:00:00%2B23:59": 422,
    "/v1/bindings?requested_from=9999-12-31T23:59:59-23:59": 422,
    "/v1/events?after=%D9%A1-1": 422,
    "/v1/events?wait_s=nan": 422,
    "/v1/events?wait_s=1e9": 422,
    f"/v1/bindings?{A}=1&{A}=2": 422,
    "/v1/bindings?"
    + "&".join(f"{sign}{other}=1" for sign in "abcdefghij" for other in "abcdefghijklmnopqrst"): 422,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:50])
def test_malformed_path_or_query_is_refused_with_a_problem(listening: Running, path: str) -> None:
    answer = speak(listening, get(path))
    assert problem(answer)["status"] == PATHS[path]
    assert A.encode() not in answer


def test_repeated_field_is_refused_by_name(listening: Running) -> None:
    for body, name in ((b'{"phone": "1", "phone": "2"}', "phone"), (b'{"9188067701": 1, "9188067701": 2}', None)):
        error = problem(speak(listening, posted(body, path="/v1/lookup")))
        named = [fault["field"] for fault in error["errors"]]
        assert name in named if name else set(named) == {"(unnamed)", "phone"}


def test_type_errors_and_value_errors_are_listed_together(listening: Running) -> None:
    for sent, fields in (
        (
            posted(b'{"limit": "x", "state": "gone", "zip": 1}', path="/v1/bindings/search"),
            ["limit", "state", "zip"],
        ),
        (get("/v1/bindings?limit=x&state=gone&zip=1"), ["limit", "state", "zip"]),
        (
            posted(b'{"phone": 5, "reveal": {"why": 1}}', path="/v1/lookup"),
            ["phone", "reveal.reason", "reveal.why"],
        ),
        (posted(b'{"phone": "1", "reveal": {"reason": 5}}', path="/v1/lookup"), ["reveal.reason"]),
        (posted(b'{"phone": [], "reveal": true}', path="/v1/lookup"), ["phone", "reveal"]),
        (posted(GOOD.replace(b'"AXB"', b'"AXQ"'), "Idempotency-Key: a b"), ["Idempotency-Key", "mode"]),
    ):
        assert sorted(fault["field"] for fault in problem(speak(listening, sent))["errors"]) == fields


def test_many_unknown_or_repeated_names_are_counted_after_the_first_ten(listening: Running) -> None:
    unknown = json.dumps({f"x{'a' * (number % 9)}{chr(97 + number % 26)}{number}": 1 for number in range(64)})
    repeated = "{" + ", ".join(f'"n{number}": 1, "n{number}": 2' for number in range(32)) + "}"
    query = "&".join(f"n{number}=1" for number in range(64))
    for sent in (
        posted(unknown.encode(), path="/v1/lookup"),
        posted(repeated.encode(), path="/v1/lookup"),
        get(f"/v1/bindings?{query}"),
        request(b"{}", JSON, "Content-Length: 2", path=f"/v1/lookup?{query}"),
    ):
        answer = speak(listening, sent)
        assert problem(answer)["status"] == 422
        assert 11 <= len(problem(answer)["errors"]) <= 25
        assert len(answer) < 8_192


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_trailers_are_no_headers(listening: Running, late: bool) -> None:
    """A proxy checks and removes headers of the head only."""
    body = b"2\r\n{}\r\n0\r\n"
    head = request(b"", JSON, "Transfer-Encoding: chunked", path="/v1/lookup")
    trailers = b"Authorization: Bearer nobody\r\nX-Request-ID: from-a-trailer\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    with connect(listening) as connection:
        connection.sendall(head + body + (b"" if late else trailers))
        if late:
            wait_for(lambda: bool(listening.uvicorn.server_state.tasks))
            connection.sendall(trailers)
        answer = read_until_closed(connection)
    assert problem(answer)["status"] == 422  # not 401: the key in the trailer was not read
    assert b"from-a-trailer" not in answer


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "\xe9", "x" * 256, "a,\xa0b"])
def test_idempotency_key_must_be_visible_ascii(listening: Running, key: str) -> None:
    error = problem(speak(listening, posted(GOOD, f"Idempotency-Key: {key}")))
    assert [fault["field"] for fault in error["errors"]] == ["Idempotency-Key"]


@pytest.mark.parametrize("request_id", ["a\tb", "\xe9", "a b", f"call-{A}", "91.8806.7701", "x" * 129, "(a)"])
def test_request_id_that_may_hold_a_phone_is_replaced(listening: Running, request_id: str) -> None:
    answer = speak(listening, get("/v1/bindings", f"X-Request-ID: {request_id}"))
    assert status(answer) == 200
    assert request_id.encode("latin-1") not in answer


def test_options_returns_the_methods_of_a_path_and_nothing_else(listening: Running) -> None:
    for path in ("/v1/bindings", "/v1/lookup", "/metrics", "/livez"):
        answer = speak(listening, request(b"", path=path, method="OPTIONS"))
        assert (status(answer), b"\r\nallow: " in answer.lower()) == (204, True)
        assert b"access-control" not in answer.lower()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/v1/bindings", "/v1/nothing"])
def test_head_request_gets_the_response_of_a_get_without_its_body(listening: Running, path: str) -> None:
    head, _, body = speak(listening, request(b"", path=path, method="HEAD")).partition(b"\r\n\r\n")
    expected, _, expected_body = speak(listening, get(path)).partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in head.splitlines()[1:]]
    assert (status(head), body) == (status(expected), b"")
    assert names == [line.partition(b":")[0] for line in expected.splitlines()[1:]]
    assert (f"content-length: {len(expected_body)}".encode() in head.lower()) == (
        b"content-length" in expected.lower()
    )


@pytest.mark.parametrize("path", ["/v1/lookup", "/sign-in?token=x", "/sign-in/?token=x", "/sign%2Din?token=x"])
def test_refused_head_request_has_no_body_and_names_other_methods(listening: Running, path: str) -> None:
    answer = speak(listening, request(b"", path=path, method="HEAD"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), body) == (405, b"")
    [allow] = [line for line in head.splitlines() if line.lower().startswith(b"allow:")]
    assert (b"POST" in allow, b"HEAD" in allow) == (True, False)


def test_connection_that_its_client_resets_waits_for_no_other_request(listening: Running) -> None:
    """Otherwise it stays in memory, with its last request, for as long as an idle connection stays open."""
    with connect(listening) as connection:
        connection.sendall(get("/livez").replace(b"Connection: close\r\n", b""))
        assert connection.recv(1_000)
        address = connection.getsockname()
        open_connections: set[Any] = {*listening.uvicorn.server_state.connections}
        [protocol] = [item for item in open_connections if item.client == address]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
    wait_for(lambda: protocol.parser is None)
    assert protocol.timeout_keep_alive_task is None


UPGRADE = ("Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")
QUESTION = b'{"phone": "%s"}' % A.encode()


def upgrade_request(body: bytes, *headers: str, path: str = "/v1/lookup") -> bytes:
    """Return a request as Java's HttpClient sends it by default: it offers HTTP/2."""
    sent = request(body, JSON, *UPGRADE, *headers, path=path)
    return sent.replace(b"Connection: close", b"Connection: Upgrade, HTTP2-Settings")


@pytest.mark.parametrize("cut", [1, 100, -len(QUESTION), -len(QUESTION) + 5, -1], ids=str)
def test_body_of_a_request_that_asks_for_an_upgrade_is_read(listening: Running, cut: int) -> None:
    sent = upgrade_request(QUESTION, f"Content-Length: {len(QUESTION)}")
    with connect(listening) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (sent[:cut], sent[cut:], posted(QUESTION, path="/v1/lookup")):
            connection.sendall(part)
        answer = read_until_closed(connection)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]


def test_chunks_and_no_body_of_a_request_that_asks_for_an_upgrade_are_read(listening: Running) -> None:
    chunks = upgrade_request(b"8\r\n%b\r\n" % QUESTION[:8], "Transfer-Encoding: chunked")
    chunks += b"%x\r\n%b\r\n0\r\n\r\n" % (len(QUESTION) - 8, QUESTION[8:])
    empty = get("/livez", "Upgrade: websocket").replace(b"Connection: close", b"Connection: Upgrade")
    answer = speak(listening, chunks + empty + get("/v1/nothing"))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_pipelined_requests_that_ask_for_an_upgrade_are_answered_up_to_one_that_closes(listening: Running) -> None:
    upgrade = get("/livez", UPGRADE[0]).replace(b"Connection: close", b"Connection: Upgrade")
    answer = speak(listening, upgrade * 600 + get("/livez") + get("/livez"))
    assert answer.count(b"HTTP/1.1 200") == 601


def test_limits_hold_for_a_request_that_asks_for_an_upgrade(listening: Running) -> None:
    large = upgrade_request(b" " * (MAX_BODY + 1), f"Content-Length: {MAX_BODY + 1}")
    assert problem(speak(listening, large))["status"] == 413
    for framing in ("Transfer-Encoding: gzip", "Content-Length: 5\r\nTransfer-Encoding: chunked"):
        assert problem(speak(listening, upgrade_request(b"0\r\n\r\n", framing)))["status"] == 400


def test_nothing_is_read_after_a_request_for_a_tunnel(listening: Running) -> None:
    tunnel = request(b"", method="CONNECT").replace(b"Connection: close\r\n", b"")
    answer = speak(listening, tunnel + get("/livez"))
    assert (status(answer), answer.count(b"HTTP/1.1 ")) == (405, 1)


def test_pipelined_requests_are_answered_in_order(listening: Running) -> None:
    first = get("/livez").replace(b"Connection: close\r\n", b"")
    answer = speak(listening, first + first + get("/v1/nothing"))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_expect_continue_is_answered_or_refused(listening: Running) -> None:
    answer = speak(listening, posted(b"{}", "Expect: 100-continue", path="/v1/lookup"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 ")
    refused = request(b"", JSON, f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue")
    assert problem(speak(listening, refused))["status"] == 413


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", None),
        (b"\r\n", 408),
        (b"GET /v1/bindings HTTP/1.1\r\nHost: loc", 408),
        (get("/livez").replace(b"Connection: close\r\n", b"") + b"GET /v1", 408),
    ],
    ids=["nothing", "an empty line", "half a head", "half a second head"],
)
def test_incomplete_head_times_out(
    listening: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes, expected: int | None
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.2)
    answer = speak(listening, sent)
    last = answer.rpartition(b"HTTP/1.1 ")[2]
    assert last[:3] == (b"" if expected is None else str(expected).encode())


def test_time_of_a_head_runs_once_and_only_while_no_request_is_handled(
    listening: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a timer that nothing stops closes the connection in the middle of a later request."""
    expected: list[bool] = []
    start_timer = http_protocol.LimitedHttpProtocol._start_timer

    def record(protocol: http_protocol.LimitedHttpProtocol) -> None:
        is_idle = protocol.cycle is None or protocol.cycle.response_complete
        expected.append(is_idle and protocol._timer is None)
        start_timer(protocol)

    monkeypatch.setattr(http_protocol.LimitedHttpProtocol, "_start_timer", record)
    kept, last = get("/livez").replace(b"Connection: close\r\n", b""), get("/v1/nothing")
    with connect(listening) as connection:
        connection.sendall(kept * 3 + last[:20])
        wait_for(lambda: len(expected) >= 2)
        connection.sendall(last[20:])
        answer = read_until_closed(connection)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3 + [b"404"]
    assert expected == [True, True]  # for the first head and for the one that was sent in two parts


def test_slow_head_times_out_even_if_bytes_keep_coming(
    listening: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.5)
    ended = threading.Event()
    with connect(listening) as dripping:

        def drip() -> None:
            for byte in get("/livez", f"X-A: {'a' * 10_000}"):
                if ended.wait(0.02):
                    return
                dripping.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        answer = read_until_closed(dripping)
        ended.set()
        thread.join()
    assert status(answer) == 408


def test_bytes_around_a_body_are_limited(listening: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_BYTES_AROUND_BODY", 4_096)
    with connect(listening) as endless:
        endless.sendall(request(b"2\r\n{}\r\n0\r\n", JSON, "Transfer-Encoding: chunked", path="/v1/lookup"))
        wait_for(lambda: bool(listening.uvicorn.server_state.tasks))  # the head is through: this is no head
        with suppress(ConnectionError):
            endless.sendall(b"X-A: a\r\n" * 10_000)
        assert read_until_closed(endless) == b""


def hold_without_end(running: Running, count: int) -> list[socket.socket]:
    """Open connections whose requests wait for events."""
    after = running.get("/v1/events").json()["next_cursor"]
    running.session.close()
    waiting_before = running.app_state.notifier.waiting
    held = [connect(running) for _ in range(count)]
    for connection in held:
        connection.sendall(get(f"/v1/events?after={after}&wait_s=30"))
    wait_for(lambda: running.app_state.notifier.waiting == waiting_before + count)
    return held


def close_all(running: Running, held: list[socket.socket]) -> None:
    for connection in held:
        connection.close()
    wait_for(lambda: not running.uvicorn.server_state.connections)


def test_connection_is_busy_if_every_other_one_has_a_request(
    listening: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold_without_end(listening, 2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    answer = speak(listening, get("/livez"))
    assert (problem(answer)["code"], b"\r\nretry-after: 2" in answer) == ("busy", True)
    close_all(listening, held)
    assert status(speak(listening, get("/livez"))) == 200


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_CONNECTIONS_OF_ADDRESS"])
def test_connection_that_was_idle_the_longest_gives_its_place_to_a_new_one(
    listening: Running, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    held = hold_without_end(listening, 1)
    monkeypatch.setattr(connections, limit, 3)
    kept_alive = get("/livez").replace(b"Connection: close\r\n", b"")
    first, second = connect(listening), connect(listening)
    for connection in (first, second, first):  # the second one is idle for longer
        connection.sendall(kept_alive)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
    assert status(speak(listening, get("/livez"))) == 200
    assert read_until_closed(second) == b""
    first.sendall(kept_alive)
    assert first.recv(65_536).startswith(b"HTTP/1.1 200")
    close_all(listening, [*held, first, second])


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_CONNECTIONS_OF_ADDRESS"])
@pytest.mark.parametrize("waits", ["for the rest of a body", "for the rest of a second body", "to be read"])
def test_connection_that_waits_for_its_client_gives_its_place_to_a_new_one(
    listening: Running, monkeypatch: pytest.MonkeyPatch, limit: str, waits: str
) -> None:
    """Such a connection costs its client nothing: it must not keep others out, health probes above all."""
    kept_alive = get("/openapi.json").replace(b"Connection: close\r\n", b"")
    half_a_body = request(b"{", JSON, "Content-Length: 10")
    sent = {
        "for the rest of a body": half_a_body,
        "for the rest of a second body": get("/livez").replace(b"Connection: close\r\n", b"") + half_a_body,
        "to be read": kept_alive * 200,
    }[waits]
    held = hold_without_end(listening, 1)
    monkeypatch.setattr(connections, limit, 2)
    slow = connect(listening)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    slow.sendall(sent)
    wait_for(lambda: len(waiting_for_client(listening)) == 1)
    assert status(speak(listening, get("/livez"))) == 200
    wait_for(lambda: not waiting_for_client(listening))
    close_all(listening, [*held, slow])


def waiting_for_client(running: Running) -> list[Any]:
    """Return the connections that have an incomplete body, or a response that the client does not read."""
    open_connections: list[Any] = list(running.uvicorn.server_state.connections)
    with_request = [each for each in open_connections if each.cycle is not None]
    return [each for each in with_request if each.cycle.more_body or each.flow.write_paused]


def test_an_address_with_many_connections_makes_room_for_others() -> None:
    class Client:
        closed = False

        def close_idle(self) -> None:
            self.closed = True

    shares = connections.Connections(TrustedProxies((ip_network("10.0.0.0/8"),)))
    limit, of_address = connections.MAX_CONNECTIONS, connections.MAX_CONNECTIONS_OF_ADDRESS
    proxied = [Client() for _ in range(limit - of_address)]
    assert all(shares.add(client, "10.0.0.1") for client in proxied)  # a proxy may have more than one address
    greedy = [Client() for _ in range(of_address + 1)]
    assert all(shares.add(client, "192.0.2.1") for client in greedy)
    assert [client.closed for client in greedy] == [True] + [False] * of_address
    assert shares.add(Client(), "192.0.2.2")
    assert [client.closed for client in proxied[:2]] == [True, False]
    for client in (*proxied[1:], *greedy[1:]):
        shares.set_busy(client)
    assert not shares.add(Client(), "192.0.2.1")
    assert shares.add(Client(), "192.0.2.3")  # in the place of 192.0.2.2, the only idle one
    shares.set_idle(greedy[5], "192.0.2.1")
    shares.remove(greedy[6], "192.0.2.1")
    assert shares.add(Client(), "192.0.2.1")
    assert not greedy[5].closed


@pytest.mark.parametrize(("files", "most"), [(None, None), (256, 128), (1_024, 736), (4_096, 3_808)])
def test_connections_leave_files_for_the_database_and_the_provider(files: int | None, most: int | None) -> None:
    assert open_files.connections_within(files, load({})) == most


def test_connections_keep_to_the_files_that_the_process_may_open() -> None:
    class Client:
        closed = False

        def close_idle(self) -> None:
            self.closed = True

    open_connections = connections.Connections(TrustedProxies(()), room=3)
    clients = [Client() for _ in range(5)]
    assert all(open_connections.add(client, "192.0.2.1") for client in clients)
    assert [client.closed for client in clients] == [True, True, False, False, False]


@pytest.mark.parametrize("proxy", [False, True], ids=["client", "named proxy"])
def test_idle_connections_of_one_address_keep_no_probe_out(
    listening: Running, monkeypatch: pytest.MonkeyPatch, proxy: bool
) -> None:
    """An address opens more connections than the process may have; each asks once, and then says nothing."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 40)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_OF_ADDRESS", 10)
    if proxy:
        proxies = TrustedProxies((ip_network("127.0.0.1/32"),))
        monkeypatch.setattr(listening.app_state.connections, "_proxies", proxies)
    kept_alive = get("/livez").replace(b"Connection: close\r\n", b"")
    held = [connect(listening) for _ in range(41)]
    for connection in held:
        with suppress(ConnectionError):
            connection.sendall(kept_alive)
            connection.recv(65_536)
    open_connections = listening.app_state.connections
    wait_for(lambda: open_connections._count == (40 if proxy else 10))
    for address in ("127.0.0.1", "127.0.0.2"):
        host, port = listening.url.removeprefix("http://").split(":")
        for probe in ("/livez", "/readyz"):
            with socket.create_connection((host, int(port)), timeout=300, source_address=(address, 0)) as other:
                other.sendall(get(probe))
                answer = read_until_closed(other)
            assert status(answer) == 200 or b'"not-ready"' in answer
    close_all(listening, held)


def test_disconnect_frees_the_place_of_a_waiting_request(listening: Running) -> None:
    after = listening.get("/v1/events").json()["next_cursor"]
    with connect(listening) as waiting:
        waiting.sendall(get(f"/v1/events?after={after}&wait_s=30"))
        wait_for(lambda: listening.app_state.notifier.waiting == 1)
    wait_for(lambda: listening.app_state.notifier.waiting == 0)
    with connect(listening) as half:
        half.sendall(request(b"{", JSON, "Content-Length: 10"))
        half.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: cut_off(listening) > 0)


def cut_off(running: Running) -> float:
    """How many requests ended without an answer, because the caller went away."""
    return sum(
        sample.value
        for family in families(running.get("/metrics").text)
        for sample in family.samples
        if sample.name == "bindings_http_request_seconds_count" and sample.labels["status"] == "0"
    )


@pytest.mark.parametrize("is_connected", [False, True], ids=["in the backlog", "on an idle connection"])
def test_request_that_has_arrived_when_the_server_stops_is_answered(running: Running, is_connected: bool) -> None:
    has_stopped, has_sent = threading.Event(), threading.Event()

    async def stop_after_the_request_was_sent(counter: int) -> bool:
        has_stopped.set()
        assert has_sent.wait(300)
        return True

    asked = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    early = connect(running) if is_connected else None
    if early:
        early.sendall(asked)
        assert status(early.recv(65_536)) == 200
    running.uvicorn.on_tick = stop_after_the_request_was_sent  # type: ignore[method-assign]
    assert has_stopped.wait(300)
    with early or connect(running) as connection:
        connection.sendall(asked)
        has_sent.set()
        assert status(read_until_closed(connection)) == 200


# Private parts of uvicorn, on which the limits of a connection rely.


def test_uvicorn_has_the_parts_of_its_protocol_that_are_overridden() -> None:
    """If this fails after an update of uvicorn, `http_protocol` limits nothing any more: adapt it first."""
    overridden = {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "on_message_begin": ["self"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
        "on_response_complete": ["self"],
        "pause_writing": ["self"],
        "resume_writing": ["self"],
    }
    actual = {name: list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) for name in overridden}
    assert actual == overridden
    own = {name for name, member in vars(http_protocol.LimitedHttpProtocol).items() if inspect.isfunction(member)}
    assert own & set(dir(HttpToolsProtocol)) == {"__init__", *overridden}


def test_uvicorn_has_the_attributes_of_its_protocol_that_are_read() -> None:
    async def attributes() -> tuple[set[str], set[str]]:
        config = uvicorn.Config(lambda: None, log_config=None)
        config.load()
        protocol = HttpToolsProtocol(config, ServerState(), {})
        return set(vars(protocol)), set(re.findall(r"self\.(\w+) = ", inspect.getsource(RequestResponseCycle)))

    protocol, cycle = asyncio.run(attributes())
    assert {"client", "cycle", "transport", "loop", "pipeline", "flow", "parser", "headers"} <= protocol
    assert "timeout_keep_alive_task" in protocol
    assert {"response_complete", "keep_alive", "more_body"} <= cycle


def test_uvicorn_does_nothing_else_with_received_bytes_than_the_subclass_that_replaces_it() -> None:
    source = inspect.getsource(HttpToolsProtocol.data_received)
    first, parse = source.split("\n", 3)[1:2], "self.parser.feed_data(data)"
    assert (first, parse in source) == (["        self._unset_keepalive_if_required()"], True)


def test_uvicorn_server_handles_signals_only_by_capture_signals() -> None:
    """`server.Server` replaces it, so that the process lives until its jobs have ended."""
    assert "with self.capture_signals():" in inspect.getsource(uvicorn.Server.serve)
