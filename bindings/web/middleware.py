"""What every request passes before it reaches a route: an id, plain headers, a bounded body, a log line, a count.

Pure ASGI, outermost. The whole body is read here, at most 64 KiB of it and for at most ten seconds, so that no
slow or endless sender holds anything further in. What a proxy might read otherwise than we do is refused. The log
line and the metrics name the route's template, never the path as it was sent: a careless caller may have put a
phone number there.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from uuid_utils import uuid7

from bindings.errors import BindingsError
from bindings.web import problems
from bindings.web.http_protocol import LARGEST_HEAD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bindings.web.metrics import Metrics

    Message = dict[str, Any]
    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 64 * 1024
BODY_DEADLINE_S = 10.0
LINGER_S = 2.0
# A caller's own id is taken over; one that may hold a phone number, or cannot stand in a log line, is not.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
MACHINE_MADE = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\Z", re.IGNORECASE)  # UUIDs, trace ids
MAYBE_A_PHONE = re.compile(r"[0-9](?:[._:-]?[0-9]){6}")
JSON = re.compile(r"application/json\s*(;\s*charset=\"?utf-8\"?\s*)?\Z", re.IGNORECASE)
FORM = re.compile(r"application/x-www-form-urlencoded\s*(;\s*charset=\"?utf-8\"?\s*)?\Z", re.IGNORECASE)
ONCE = frozenset(
    (b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding")
)
NO_PATH = re.compile(rb"[\x00-\x1f\x7f]|//|[^/]{256}")  # no file has such a name; and no two spellings of a path
ON_EVERY_ANSWER = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
UNKNOWN_ROUTE = "unknown"
UNLOGGED_ROUTES = ("/livez", "/readyz", "/metrics")  # asked every few seconds: counted, not logged

_log = structlog.get_logger("bindings.web")


class RequestMiddleware:
    """The outermost application. `app` is what comes after it."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # of a header given twice, the first counts
        visit = _RequestContext(scope, send, _request_id(headers))
        scope.setdefault("state", {})["request_id"] = visit.request_id
        structlog.contextvars.bind_contextvars(request_id=visit.request_id)
        try:
            incoming = _BodyReceiver(receive)
            try:
                _check_head(scope, headers)
                body = await _whole_body(headers, incoming)
                _check_media_type(scope["path"], headers, body)
            except BindingsError as refusal:
                await visit.refuse(refusal)
                if b"expect" not in headers and not isinstance(refusal, problems.RequestTimeout):
                    await incoming.drain()
                await visit.end()
            else:
                if body is not None:
                    scope["state"]["body"] = body
                    await self._app(scope, _replay(body, receive), visit.send)
        finally:
            self._log_request(visit)
            structlog.contextvars.clear_contextvars()

    def _log_request(self, visit: _RequestContext) -> None:
        route = visit.scope.get("path_template") or UNKNOWN_ROUTE
        elapsed = time.monotonic() - visit.began
        self._metrics.request(visit.method, route, visit.status, elapsed)
        if route in UNLOGGED_ROUTES:
            return
        who = visit.scope["state"].get("principal")
        _log.info(
            "request",
            method=visit.method,
            route=route,
            status=visit.status,
            elapsed_ms=round(elapsed * 1_000, 1),
            actor=None if who is None else who.actor,
            binding_id=visit.scope["state"].get("binding_id"),
        )


class _RequestContext:
    """One request on its way."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.method: str = scope["method"] if scope["method"] in METHODS else "other"
        self.request_id = request_id
        self.began = time.monotonic()
        self.status = 0  # nothing was answered: the caller went away
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = (*ON_EVERY_ANSWER, (b"x-request-id", self.request_id.encode()))
            given = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in own if name not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def refuse(self, error: BindingsError) -> None:
        """Answer with a problem, up to the `end`; no route has seen the request."""
        body = problems.body(error, self.request_id)
        given = problems.headers(error) | {
            "Content-Type": problems.MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        headers = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        await self.send({"type": "http.response.start", "status": error.http_status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """Close the connection after a refusal."""
        await self.send({"type": "http.response.body", "body": b""})


class _BodyReceiver:
    """What a caller sends, as it comes, and whether it is all there."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def __call__(self) -> Message:
        message = await self._receive()
        self._more = message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read the rest for a moment: whoever still sends when the connection closes loses the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self._more:
                    await self()


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    plain = MACHINE_MADE.match(given) or not MAYBE_A_PHONE.search(given)
    return given if plain and REQUEST_ID.match(given) else str(uuid7())


def _check_head(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Refuse what is too large, and what two readers may understand in two ways."""
    given = [name for name, _ in scope["headers"] if name in ONCE]
    if len(given) != len(set(given)):
        raise problems.Malformed("a header that may stand there once is given more than once; nothing was done")
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise problems.Malformed("the only transfer encoding is chunked; nothing was done")
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > LARGEST_HEAD:
        raise problems.HeadTooLarge
    if NO_PATH.search(scope["path"].encode(errors="replace")):
        raise problems.NoSuchPath


async def _whole_body(headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
    """The body; None where the caller went away before its end."""
    told = headers.get(b"content-length", b"0")
    if told.isdigit() and int(told) > LARGEST_BODY:
        raise problems.TooLarge
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await _collected(receive)
    except TimeoutError:
        raise problems.RequestTimeout from None


async def _collected(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            raise problems.TooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_media_type(path: str, headers: dict[bytes, bytes], body: bytes | None) -> None:
    """Under /v1 a body is JSON; what a browser may send from any page in the world gets no further there."""
    expected = JSON if path.startswith("/v1") else FORM
    packed = headers.get(b"content-encoding", b"identity").lower() != b"identity"
    if body and (packed or not expected.match(headers.get(b"content-type", b"").decode("latin-1"))):
        raise problems.UnsupportedMediaType


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, and then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
