"""The response of a call of the API: a complete body, which is sent with its head in one write.

Responses of the framework are built in several steps and sent in two messages, each of which is a write to the
socket; those of pages, files and exports stay that way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Scope = dict[str, Any]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = "application/json"
COMPLETE_RESPONSE = "bindings.response.complete"  # a message with status, headers and the whole body
EXCHANGE = "bindings.exchange"  # the extension of ASGI by which a server provides an `Exchange`


class Exchange(Protocol):
    """What a server may do for one request besides ASGI."""

    def take_body(self, limit: int) -> bytes | None:
        """Return the body if all of it was received and it is no longer than that; else it is to be received."""

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a complete response in one write; `headers` has its length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiResponse:
    """A response with its whole body. An ASGI application, which `middleware.RequestMiddleware` must be around."""

    content: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON

    async def __call__(self, _scope: Scope, _receive: object, send: Send) -> None:
        """Send the response."""
        headers = [
            (b"content-type", self.media_type.encode()),
            (b"content-length", str(len(self.content)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]
        await send({"type": COMPLETE_RESPONSE, "status": self.status, "headers": headers, "body": self.content})
