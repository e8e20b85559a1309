"""What every request passes before it reaches a route: request id, header checks, body limit, log line, metrics.

Pure ASGI, outermost. The whole body is read here, at most 17 KiB of it and for at most ten seconds, so that a slow
or endless sender occupies no route. A request that a proxy might parse in another way than this server is refused.
The log line and the metrics name the route's template, never the path as it was sent: a careless client may have
put a phone number there. Authentication does not belong here.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from litestar.utils import normalize_path
from uuid_utils import uuid7

from bindings import telemetry
from bindings.errors import BindingsError
from bindings.logs import CURRENT_REQUEST_ID
from bindings.web import problems
from bindings.web.http_protocol import MAX_HEAD_BYTES
from bindings.web.responses import COMPLETE_RESPONSE, EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bindings.telemetry import Span
    from bindings.web.metrics import Metrics
    from bindings.web.responses import Exchange

    Message = dict[str, Any]
    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 17 * 1024  # no valid body is larger, even if every character is escaped
BODY_DEADLINE_S = 10.0
DRAIN_S = 2.0
# The client's own request id is kept, unless it may hold a phone number or is not fit for a log line.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
GENERATED_ID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\Z", re.IGNORECASE)  # UUIDs, trace ids
MAYBE_A_PHONE = re.compile(r"[0-9](?:[._:-]?[0-9]){6}")
# Clients also write utf8, or a semicolon at the end. No two runs of spaces stand side by side: a header with many
# spaces would be matched in each way to divide them.
_IN_UTF_8 = r"\s*(;\s*(charset=\"?utf-?8\"?\s*(;\s*)?)?)?\Z"
JSON = re.compile(r"application/json" + _IN_UTF_8, re.IGNORECASE)
FORM = re.compile(r"application/x-www-form-urlencoded" + _IN_UTF_8, re.IGNORECASE)
SINGLE_HEADERS = frozenset(
    (b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding")
)
HOST = re.compile(rb"[0-9A-Za-z!$&'()*+,;=\-._~:\[\]@%]*\Z")
INVALID_PATH = re.compile(rb"[\x00-\x1f\x7f]|//|[^/]{256}")  # no route: a control character, a second
# spelling of a path, or a part that is too long for the name of a file
RESPONSE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
UNKNOWN_ROUTE = "unknown"
WITHOUT_HEAD = ("/sign-in",)  # its link works once, and programs that preview a link request its head
STATUSES_WITH_ALLOW = (204, 405)
UNLOGGED_ROUTES = ("/livez", "/readyz", "/metrics")  # requested every few seconds: counted, not logged

_log = structlog.get_logger("bindings.web")


class RequestMiddleware:
    """The outermost ASGI application. `app` is the inner one, which has the routes."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request: pass it on to the inner application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # if a header is repeated, the first one counts
        context = _RequestContext(scope, send, _request_id(headers))
        scope.setdefault("state", {})["request_id"] = context.request_id
        token = CURRENT_REQUEST_ID.set(context.request_id)
        is_probe = scope["path"] in UNLOGGED_ROUTES
        request_span = telemetry.NO_SPAN if is_probe else telemetry.request_span(context.method, scope["headers"])
        with request_span as span:
            try:
                await self._handle(context, headers, receive)
            finally:
                self._record(context, span)
                CURRENT_REQUEST_ID.reset(token)

    async def _handle(self, context: _RequestContext, headers: dict[bytes, bytes], receive: Receive) -> None:
        scope, receiver = context.scope, _BodyReceiver(receive, _exchange(context.scope))
        try:
            _check_head(scope, headers)
            body = await _read_body(headers, receiver)
            _check_media_type(scope["path"], headers, body)
        except BindingsError as error:
            await context.refuse(error)
            if b"expect" not in headers and not isinstance(error, problems.RequestTimeout):
                await receiver.drain()
            await context.end()
        else:
            if body is not None:
                scope["state"]["body"] = body
                if scope["method"] == "HEAD" and _allows_head(scope["path"]):
                    context.scope = scope = {**scope, "method": "GET"}  # the server leaves the body out
                await self._app(scope, _replay(body, receive), context.send)

    def _record(self, context: _RequestContext, span: Span) -> None:
        """Count a request, log it, and describe it in its span."""
        route = context.scope.get("path_template") or UNKNOWN_ROUTE
        elapsed = time.monotonic() - context.started_at
        self._metrics.request(context.method, route, context.status, elapsed)
        if route in UNLOGGED_ROUTES:
            return
        if telemetry.is_recorded():
            context.describe(span, route, elapsed)
        principal = context.scope["state"].get("principal")
        _log.info(
            "request",
            method=context.method,
            route=route,
            status=context.status,
            elapsed_ms=round(elapsed * 1_000, 1),
            actor=None if principal is None else principal.actor,
            binding_id=context.scope["state"].get("binding_id"),
        )


class _RequestContext:
    """One request while it is handled."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.method: str = scope["method"] if scope["method"] in METHODS else "other"
        self.request_id = request_id
        self.started_at = time.monotonic()
        self.status = 0  # no response was sent: the client disconnected
        self._send = send

    def describe(self, span: Span, route: str, elapsed_s: float) -> None:
        """Set the attributes of an HTTP server span, and record its duration; the path is that of the route."""
        scheme = self.scope.get("scheme", "http")
        attributes: dict[str, str | int] = {
            "http.request.method": "_OTHER" if self.method == "other" else self.method,
            "http.route": route,
            "url.scheme": scheme,
        }
        if self.status:
            attributes["http.response.status_code"] = self.status
        if self.status >= telemetry.SERVER_ERROR:
            span.fail(str(self.status))
        span.rename(f"{attributes['http.request.method']} {route}")
        span.set_standard(attributes | {"url.path": route})
        span.set(request_id=self.request_id, binding_id=self.scope["state"].get("binding_id"))
        telemetry.record_seconds("http.server.request.duration", elapsed_s, attributes)

    async def send(self, message: Message) -> None:
        """Send a part of the response, or all of it, with the headers that every response has."""
        if message["type"] in ("http.response.start", COMPLETE_RESPONSE):
            self.status = message["status"]
            defaults = (*RESPONSE_HEADERS, (b"x-request-id", self.request_id.encode()))
            present = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in defaults if name not in present]
            message = {**message, "headers": [*message["headers"], *added]}
            if self.status in STATUSES_WITH_ALLOW and _allows_head(self.scope["path"]):
                message["headers"] = [(name, _allow(name, value)) for name, value in message["headers"]]
        if message["type"] == COMPLETE_RESPONSE:
            await self._send_complete(message)
        else:
            await self._send(message)

    async def _send_complete(self, message: Message) -> None:
        """Send a complete response, in one write if the server can."""
        exchange = _exchange(self.scope)
        if exchange is not None:
            await exchange.respond(message["status"], message["headers"], message["body"])
            return
        await self._send({**message, "type": "http.response.start"})
        await self._send({"type": "http.response.body", "body": message["body"]})

    async def refuse(self, error: BindingsError) -> None:
        """Send a problem object as the response, which `end` completes; no route has seen the request."""
        body = problems.body(error, self.request_id)
        named_headers = problems.headers(error) | {
            "Content-Type": problems.MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        headers = [(name.lower().encode(), value.encode()) for name, value in named_headers.items()]
        await self.send({"type": "http.response.start", "status": error.http_status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """Complete the response of a refusal, which closes the connection."""
        await self.send({"type": "http.response.body", "body": b""})


class _BodyReceiver:
    """Receives the request body in parts, or all of it at once, and tracks whether there are more."""

    def __init__(self, receive: Receive, exchange: Exchange | None) -> None:
        self._receive = receive
        self._exchange = exchange
        self._more_body = True

    def take_all(self) -> bytes | None:
        """Return the body if all of it was received and it is not too large, without waiting; else None."""
        body = None if self._exchange is None else self._exchange.take_body(MAX_BODY_BYTES)
        self._more_body = body is None
        return body

    async def __call__(self) -> Message:
        message = await self._receive()
        self._more_body = message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Drain the request body briefly, so that the client can read the error response."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._more_body:
                    await self()


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _allows_head(path: str) -> bool:
    """Return whether a path with GET has HEAD too; the framework takes /sign-in/ for /sign-in."""
    return normalize_path(path) not in WITHOUT_HEAD


def _allow(name: bytes, value: bytes) -> bytes:
    """Return the value of a header; the framework's `Allow` lists no HEAD."""
    return value + b", HEAD" if name.lower() == b"allow" and b"GET" in value else value


def _exchange(scope: Scope) -> Exchange | None:
    exchange: Exchange | None = scope.get("extensions", {}).get(EXCHANGE)
    return exchange


def _request_id(headers: dict[bytes, bytes]) -> str:
    if b"x-request-id" not in headers:
        return str(uuid7())
    sent_id = headers[b"x-request-id"].decode("latin-1")
    without_phone = GENERATED_ID.match(sent_id) or not MAYBE_A_PHONE.search(sent_id)
    return sent_id if without_phone and REQUEST_ID.match(sent_id) else str(uuid7())


def _check_head(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Refuse a head that is too large, has too many fields, or may be parsed by two servers in two ways."""
    if len(headers) != len(scope["headers"]):
        names = [name for name, _ in scope["headers"] if name in SINGLE_HEADERS]
        if len(names) != len(set(names)):
            raise problems.Malformed("a header that must not be repeated is repeated; nothing was done")
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise problems.Malformed("the only accepted transfer encoding is chunked; nothing was done")
    size = sum([len(name) + len(value) for name, value in scope["headers"]])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEAD_BYTES:
        raise problems.HeadTooLarge
    if not HOST.match(headers.get(b"host", b"")):
        raise problems.Malformed
    if INVALID_PATH.search(scope["path"].encode(errors="replace")):
        raise problems.NoSuchPath
    if scope["query_string"].count(b"&") >= problems.MAX_FIELDS:
        raise problems.too_many_fields("query")


async def _read_body(headers: dict[bytes, bytes], receiver: _BodyReceiver) -> bytes | None:
    """Return the body, or None if the client disconnected before its end."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise problems.TooLarge
    body = receiver.take_all()
    if body is not None:
        return body
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            return await _join_parts(receiver)
    except TimeoutError:
        raise problems.RequestTimeout from None


async def _join_parts(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise problems.TooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_media_type(path: str, headers: dict[bytes, bytes], body: bytes | None) -> None:
    """Refuse a body that is not JSON under /v1, or not a form elsewhere.

    A page of any site can make a browser send a form, so no form gets to a route under /v1.
    """
    if not body:
        return
    media_type = headers.get(b"content-type", b"").decode("latin-1")
    is_compressed = headers.get(b"content-encoding", b"identity").lower() != b"identity"
    expected = JSON if path.startswith("/v1") else FORM
    if not is_compressed and expected is FORM and JSON.match(media_type):
        message = (
            "this path takes no JSON: the paths of calls begin with /v1, and /docs lists them; nothing was done"
        )
        raise problems.UnsupportedMediaType(message)
    if is_compressed or not expected.match(media_type):
        raise problems.UnsupportedMediaType


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, and then the messages that follow it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
