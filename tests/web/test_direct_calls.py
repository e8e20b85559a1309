"""Calls without the framework's machinery: the same responses as with it, and the same bytes as uvicorn sends."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bindings.web import app
from bindings.web.direct_calls import direct_handlers
from bindings.web.http_protocol import UvicornExchange
from bindings.web.middleware import RequestMiddleware
from bindings.web.state import AppState
from tests.service.harness import A, B
from tests.store.databases import migrated_file
from tests.web.conftest import BIND, alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Running

Answer = tuple[int, dict[str, str], bytes]
DIRECT = sorted(direct_handlers(app._without_state()))
HEADERS = [
    (b"date", b"Mon, 30 Nov 2026 00:00:00 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", b"2"),
    (b"x-request-id", b"order-42"),
]


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with alone(f"sqlite:///{migrated_file(tmp_path_factory.mktemp('direct'))}") as running:
        yield running


async def answer(
    application: Any, method: str, path: str, body: bytes, *headers: tuple[bytes, bytes], query: bytes = b""
) -> Answer:
    """Return status, headers and body of a request, by the messages of ASGI."""
    sent: list[dict[str, Any]] = []
    own = [(b"host", b"localhost"), (b"x-request-id", b"order-42"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "scheme": "http",
        "headers": [*own, *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    start, *parts = sent
    received = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], received, b"".join(part["body"] for part in parts)


def requests_of(method: str, path: str) -> list[tuple[bytes, bytes]]:
    """Return bodies and queries: some that the call accepts, and some that it refuses."""
    if method == "GET":
        return [(b"", b""), (b"", b"nothing=1"), (b"", b"limit=0")]
    example = app._without_state().route_handler_method_map[path]["POST"].opt["operation"].example
    return [
        *([] if path == "/v1/bindings" else [(msgspec.json.encode(example), b"")]),  # a bind is no read
        (b"{}", b""),
        (b'{"phone": "%s", "nothing": 1}' % A.encode(), b""),
        (b'{"phone": "%s"}' % B.encode(), b""),
        (b'{"phone": "%s"}' % B.encode(), b"a=1"),
        (b"[", b""),
    ]


@pytest.mark.parametrize(("method", "path"), DIRECT, ids=lambda part: part)
def test_response_is_that_of_the_framework(listening: Running, method: str, path: str) -> None:
    keys = [listening.service.api_keys.create(name=f"{path} {role}", role=role).key for role in ("app", "auditor")]
    names = [(b"authorization", f"Bearer {key}".encode()) for key in (*keys, "bnd_wrong")]

    async def scenario() -> list[tuple[Answer, Answer]]:
        app_state = AppState(listening.service, local_admin=False)
        direct = app.application(app_state)
        framework = RequestMiddleware(app.framework(app_state), app_state.metrics)  # type: ignore[arg-type]
        answers = []
        for body, query in requests_of(method, path):
            for headers in (*([name] for name in names), [], [names[0], (b"host", b"a b")]):
                expected = await answer(framework, method, path, body, *headers, query=query)
                answers.append((expected, await answer(direct, method, path, body, *headers, query=query)))
        app_state.executors.close()
        return answers

    for (status, headers, body), ours in asyncio.run(scenario()):
        if status < 300:  # clocks and counts differ from one answer to the next
            assert (ours[0], ours[1].keys()) == (status, headers.keys())
        else:
            assert ours == (status, headers, body)


def test_every_direct_call_has_permissions_and_needs_a_key(listening: Running) -> None:
    listening.key("admin")
    assert ("POST", "/v1/lookup") in DIRECT
    for method, path in DIRECT:
        refused = listening.session.request(method, listening.url + path, json=BIND if method == "POST" else None)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert refused.headers["Cache-Control"] == "no-store"
        assert refused.headers["X-Request-ID"] == refused.json()["request_id"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/lookup", {"phone": A}, 200),
        ("/v1/lookup", {"phone": "x"}, 422),
        ("/v1/bindings/check", {}, 422),
        ("/v1/bindings/0192f0c0-0000-7000-8000-000000000000/unbind", {}, 404),
    ],
)
def test_answered_request_does_not_wait_to_be_collected(
    listening: Running, path: str, body: dict[str, str], expected: int
) -> None:
    """Its body, which may name a phone, and its key are gone with the response."""
    headers = listening.key("app", f"{path} {expected}")
    listening.post(path, body, headers)

    def cycles() -> int:
        # By `type`: `isinstance` asks each object for its class, and a lazy one would load itself.
        return sum(type(tracked) is RequestResponseCycle for tracked in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = cycles()
        for _ in range(10):
            assert listening.post(path, body, headers).status_code == expected
        assert cycles() <= before + 1  # that of the last request belongs to the connection
    finally:
        gc.enable()


class FakeTransport(asyncio.Transport):
    """A transport that records what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


def new_cycle(method: str, *, keep_alive: bool) -> tuple[RequestResponseCycle, FakeTransport, list[int]]:
    transport, completed = FakeTransport(), list[int]()
    cycle = RequestResponseCycle(
        scope={"type": "http", "method": method},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=HEADERS[:1],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: completed.append(1),
    )
    return cycle, transport, completed


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_complete_response_is_one_write_of_what_uvicorn_would_write(method: str, *, keep_alive: bool) -> None:
    async def scenario() -> None:
        theirs, expected, _ = new_cycle(method, keep_alive=keep_alive)
        await theirs.send({"type": "http.response.start", "status": 200, "headers": HEADERS[1:]})
        await theirs.send({"type": "http.response.body", "body": b"{}"})
        ours, transport, completed = new_cycle(method, keep_alive=keep_alive)
        await UvicornExchange(ours).respond(200, HEADERS[1:], b"{}")
        assert transport.written == [b"".join(expected.written)]
        assert (transport.closed, completed) == (expected.closed, [1])
        assert {name: value for name, value in vars(ours).items() if isinstance(value, bool | None)} == {
            name: value for name, value in vars(theirs).items() if isinstance(value, bool | None)
        } | {"chunked_encoding": None}
        assert ours.message_event.is_set()

    asyncio.run(scenario())


def test_complete_response_is_not_sent_to_a_client_that_has_left_nor_with_a_line_break() -> None:
    async def scenario() -> None:
        cycle, transport, completed = new_cycle("POST", keep_alive=True)
        with pytest.raises(ValueError, match="control character"):
            await UvicornExchange(cycle).respond(200, [(b"location", b"a\r\nb: c")], b"")
        cycle.disconnected = True
        await UvicornExchange(cycle).respond(200, HEADERS, b"{}")
        assert (transport.written, completed) == ([], [])

    asyncio.run(scenario())


def test_body_is_taken_at_once_if_all_of_it_was_received() -> None:
    """It leaves the cycle as `receive` of uvicorn does: the next message is that the client has left."""

    async def scenario() -> None:
        taken, _, _ = new_cycle("POST", keep_alive=True)
        received, _, _ = new_cycle("POST", keep_alive=True)
        for cycle in (taken, received):
            cycle.body += b"{}"
            cycle.more_body = False
            cycle.message_event.set()
        message = await received.receive()
        assert message["type"] == "http.request"
        assert UvicornExchange(taken).take_body(2) == message["body"] == b"{}"
        for cycle in (taken, received):
            assert (bytes(cycle.body), cycle.message_event.is_set()) == (b"", False)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "state", [{"more_body": True}, {"disconnected": True}, {"waiting_for_100_continue": True}, {"body": b"123"}]
)
def test_body_that_is_incomplete_or_too_long_is_left_to_be_received(state: dict[str, Any]) -> None:
    async def scenario() -> None:
        cycle, _, _ = new_cycle("POST", keep_alive=True)
        for name, value in ({"body": b"{}", "more_body": False} | state).items():
            setattr(cycle, name, value)
        cycle.message_event.set()
        body = cycle.body
        assert UvicornExchange(cycle).take_body(2) is None
        assert (cycle.body, cycle.message_event.is_set()) == (body, True)

    asyncio.run(scenario())
