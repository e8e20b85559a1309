"""A receiver of webhooks on a real local socket: it verifies each signature, and keeps what it received."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from bindings.extras import require_extra

with require_extra("server"):
    from standardwebhooks.webhooks import Webhook as Verifier
    from standardwebhooks.webhooks import WebhookVerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookMessage:
    """One message whose signature was verified. Each attempt of a delivery has the same `id`."""

    id: str
    type: str
    data: Mapping[str, Any]


class WebhookReceiver:
    """Listens on this machine until `stop`; answers a verified message with `status`, and others with 400.

    `messages` are the verified messages in the order of their arrival, `refused` counts the others. `secret` is
    that of the webhook; until it is set no message is verified. Thread-safe. Needs the extra `server`.
    """

    def __init__(self) -> None:
        self.secret: str | None = None
        self.status = int(HTTPStatus.NO_CONTENT)
        self.messages: list[WebhookMessage] = []
        self.refused = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="webhook-receiver", daemon=True
        )
        self._thread.start()

    def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        """Verify and keep a message, and return the HTTP status of the response."""
        by_name = {name.lower(): value for name, value in headers.items()}
        try:
            content = Verifier(self.secret or "").verify(body, by_name)
            message = WebhookMessage(id=by_name["webhook-id"], type=content["type"], data=content["data"])
        except (WebhookVerificationError, RuntimeError, ValueError, KeyError, TypeError):
            with self._lock:
                self.refused += 1
            return HTTPStatus.BAD_REQUEST
        self.messages.append(message)
        return self.status

    def types(self) -> list[str]:
        """Return the type of each message, in the order of their arrival."""
        return [message.type for message in self.messages]

    def stop(self) -> None:
        """Close the port. Safe to repeat."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receiver: WebhookReceiver) -> None:
        self.receiver = receiver
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Receive a message."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.receiver.receive(headers, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""
