"""Limits of a connection until it is a request: a head of bounded size, within bounded time.

uvicorn waits for a head without a time limit, and keeps any number of its bytes. Here both are limited, and so are
the bytes around a body (the frames of its chunks, its trailers). A client that is refused this early gets a
problem object as from any route. Routes and keys do not belong here; the limits of a body are those of
`middleware`.

This relies on private parts of uvicorn's protocol class: see the upper bound in pyproject.toml and
tests/web/test_http_protocol.py, which names every part.
"""

from __future__ import annotations

import contextvars
import re
import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bindings.errors import Busy
from bindings.web import problems
from bindings.web.proxies import UNKNOWN
from bindings.web.responses import EXCHANGE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from bindings.errors import BindingsError
    from bindings.web.connections import Connections

HEAD_DEADLINE_S = 10.0
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_BYTES_AROUND_BODY = 1024 * 1024  # a byte in a chunk of its own takes seven
RETRY_AFTER_S = 2
FRAMING_HEADERS = (b"content-length", b"transfer-encoding")
INVALID_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's connection, which also refuses a head that is too large or takes too long."""

    cycle: Any  # None until there is a request

    def __init__(self, *args: Any, open_connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open_connections = open_connections
        self._address = UNKNOWN
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None  # runs while a head is expected
        self._in_head = False
        self._ignores_upgrade = False  # while `_expect_body` repeats the framing of a body
        self._received = 0  # bytes since the last head that do not belong to a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start to wait for a head, unless there are too many connections."""
        super().connection_made(transport)
        if self.client is not None:
            self._address = str(self.client[0])
        if self._open_connections.add(self, self._address):
            self._start_timer()
        else:
            self._refuse(Busy("too many connections to this process", retry_after_s=RETRY_AFTER_S))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers; that of uvicorn would keep a connection that was reset in memory until it ran out."""
        self._open_connections.remove(self, self._address)
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, unless there are too many."""
        self._received += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._timer is None and self.waits_for_request:
            self._start_timer()
        if self._timer is not None and self._received > MAX_HEAD_BYTES:
            self._refuse(problems.HeadTooLarge())
        elif self._received > MAX_BYTES_AROUND_BODY:
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Parse bytes, and refuse those that are not HTTP."""
        unparsed: bytes | None = data
        while unparsed is not None:
            unparsed = self._parse_to_upgrade(unparsed)

    def _parse_to_upgrade(self, data: bytes) -> bytes | None:
        """Parse bytes; return those after a head that asks for an upgrade, or None if all were parsed.

        Such a request is read as any other one, because this server has no other protocol. The parser takes the
        bytes after its head for those of the new protocol, but clients send a body there: that of Java does with
        its first requests, which offer HTTP/2.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(problems.Malformed())
        except httptools.HttpParserUpgrade as upgrade:
            if not self._is_tunnel:
                self._expect_body()
                return data[upgrade.args[0] :]
            self.cycle.keep_alive = False  # no bytes after it are read
        return None

    def _expect_body(self) -> None:
        """Let a new parser read the body whose length the last head has."""
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._ignores_upgrade = True
        self._parse_to_upgrade(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        self._ignores_upgrade = False

    @property
    def _is_tunnel(self) -> bool:
        return bool(self.scope["method"] == "CONNECT")

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        if self._ignores_upgrade:
            return
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head. Fields after the body (trailers) are ignored: see RFC 9110, section 6.5.1.

        A proxy applies its rules to the head only: a key or an address in a trailer would bypass them.
        """
        if not self._in_head:
            return
        if len(self.headers) == MAX_HEADERS:
            self._refuse(problems.HeadTooLarge())
            raise problems.HeadTooLarge  # it ends the parsing; uvicorn catches it
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request: from here on `middleware` limits it."""
        if self._ignores_upgrade:
            return
        self._stop_timer()
        self._in_head = False
        self._received = 0
        super().on_headers_complete()
        if not self.transport.is_closing():
            self.cycle.scope["extensions"] = {EXCHANGE: UvicornExchange(self.cycle)}

    def on_body(self, body: bytes) -> None:
        """Do not count the bytes of the body: `middleware` does."""
        self._received -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete: from here on the client waits for the response."""
        if self.parser.should_upgrade() and not self._is_tunnel:
            return  # its body follows
        super().on_message_complete()
        self._update_idle()

    def pause_writing(self) -> None:
        """Note that the client does not read the response."""
        super().pause_writing()
        self._update_idle()

    def resume_writing(self) -> None:
        """Note that the client has read a part of the response."""
        super().resume_writing()
        self._update_idle()

    def on_response_complete(self) -> None:
        """Start the next request, or wait for the rest of its head if that began before this response was sent.

        The next one has the connection's context: it must not have the trace of the request that ends here.
        """
        self._context.run(super().on_response_complete)
        self._update_idle()
        if self._in_head and self.cycle.response_complete and not self.transport.is_closing():
            self._start_timer()

    @property
    def waits_for_request(self) -> bool:
        """Return whether the next bytes of the client are those of a request."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def close_idle(self) -> None:
        """Close the connection: others need its place. Bytes that the client has not read are discarded."""
        self._stop_timer()
        self.transport.abort()

    def _update_idle(self) -> None:
        """Note whether this connection waits for its client: for a request, the rest of a body, or to be read."""
        awaits_body = self.cycle is not None and self.cycle.more_body and not self.pipeline
        has_request = self.cycle is not None and not self.cycle.response_complete
        if has_request and not awaits_body and not self.flow.write_paused:
            self._open_connections.set_busy(self)
        else:
            self._open_connections.set_idle(self, self._address)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_DEADLINE_S, self._on_deadline)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_deadline(self) -> None:
        if self._in_head or self._received:
            self._refuse(problems.RequestTimeout())
        else:
            self.transport.close()

    def _refuse(self, error: BindingsError) -> None:
        """Send a problem object and close the connection; no route has seen a request."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        request_id = str(uuid7())
        body = problems.body(error, request_id)
        status = HTTPStatus(error.http_status)
        headers = problems.headers(error) | {
            "Content-Type": problems.MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Request-ID": request_id,
            "Connection": "close",
        }
        lines = [
            f"HTTP/1.1 {status} {status.phrase}",
            *(f"{name.lower()}: {value}" for name, value in headers.items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


class UvicornExchange:
    """One request and its response, past the messages of ASGI: uvicorn writes the head and the body separately.

    It does what `receive` and `send` of uvicorn's cycle do for a body and a response that are complete.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: Any) -> None:
        # The scope of the cycle has this object: with a strong reference each request would wait to be collected.
        self._cycle: Callable[[], Any] = weakref.ref(cycle)

    def take_body(self, limit: int) -> bytes | None:
        """Return the body if all of it was received and it is no longer than that; else it is to be received."""
        cycle = self._cycle()
        if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue or len(cycle.body) > limit:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        return body

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a complete response in one write; `headers` has its length."""
        cycle = self._cycle()
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if INVALID_VALUE.search(b"".join([value for _, value in headers])):
            raise ValueError("a header of the response has a control character")
        lines = [b": ".join(header) for header in (*cycle.default_headers, *headers)]
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        content = b"" if cycle.scope["method"] == "HEAD" else body
        cycle.transport.write(STATUS_LINE[status] + b"\r\n".join((*lines, b"", content)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
