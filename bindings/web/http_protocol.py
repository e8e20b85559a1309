"""What a connection must do before it is a request: send a head of bounded size, in bounded time.

uvicorn waits for a head for ever, and keeps any number of its bytes. Here both have an end, and so has what
comes around a body (the frames of its chunks, its trailers); and whoever is refused this early is told so with a
problem like everybody else. No route and no key is known here; the body's limits are the gate's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bindings.errors import Busy
from bindings.web import problems

if TYPE_CHECKING:
    import asyncio

    from bindings.errors import BindingsError

HEAD_DEADLINE_S = 10.0
LARGEST_HEAD = 32 * 1024
MOST_AROUND_A_BODY = 1024 * 1024  # a byte in a chunk of its own takes seven
MOST_CONNECTIONS = 2_000
RETRY_AFTER_S = 2


class LimitedHttpProtocol(HttpToolsProtocol):
    """A connection of uvicorn's that gives up on a head which is too large, or takes too long."""

    cycle: Any  # None until there is a request

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._timer: asyncio.TimerHandle | None = None  # runs while a head is waited for
        self._in_head = False
        self._received = 0  # bytes since the last head that are no body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a head, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(Busy("too many connections to this process", retry_after_s=RETRY_AFTER_S))
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes, unless they are too many."""
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()
        self._received += len(data)
        super().data_received(data)
        if self._timer is not None and self._received > LARGEST_HEAD:
            self._refuse(problems.HeadTooLarge())
        elif self._received > MOST_AROUND_A_BODY:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is there: from here on the gate looks after the request."""
        self._stop_waiting()
        self._in_head = False
        self._received = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Leave the body to the gate's limit."""
        self._received -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Go on with a head that came before the answer to the request in front of it."""
        super().on_response_complete()
        if self._in_head and not self.transport.is_closing():
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's own words are no problem object
        """Answer what is no HTTP."""
        self._refuse(problems.Malformed())

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade was asked for; what comes after it on this connection would not be read."""
        self.cycle.keep_alive = False

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_DEADLINE_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self._in_head or self._received:
            self._refuse(problems.RequestTimeout())
        else:
            self.transport.close()

    def _refuse(self, error: BindingsError) -> None:
        """Answer with a problem and close; no request has come of it."""
        self._stop_waiting()
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
