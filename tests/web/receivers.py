"""A receiver of webhooks on a real socket; it keeps the requests and answers as configured."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from standardwebhooks.webhooks import Webhook as Verifier

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Message:
    """One received request; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """Return the signed body; raises if the signature does not verify."""
        return Verifier(secret).verify(self.body, dict(self.headers))


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 204
    headers: Mapping[str, str] | None = None
    body: bytes = b""


Answers = Callable[[Message], Reply]


class Receiver:
    """Listens while its `with` block runs. `answers` returns each reply, and may wait for `released`."""

    def __init__(self, answers: Answers | None = None) -> None:
        self.answers: Answers = answers or (lambda _: Reply())
        self.messages: list[Message] = []
        self.answered = 0
        self.arrived = threading.Event()
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]

    def hangs(self, _: Message) -> Reply:
        """Return an answer that is sent only when the test releases it."""
        self.released.wait(300)
        return Reply()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(300)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(address, _Handler)

    def handle_error(self, *_: object) -> None:
        """Ignore errors of a connection: some tests kill the sender."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_POST(self) -> None:
        receiver = self.server.receiver
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # the sender was killed while it sent
        headers = {name.lower(): value for name, value in self.headers.items()}
        message = Message(path=self.path, headers=headers, body=body)
        receiver.messages.append(message)
        receiver.arrived.set()
        reply = receiver.answers(message)
        receiver.answered += 1
        self.send_response(reply.status)
        for name, value in (reply.headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Print nothing on stderr."""
