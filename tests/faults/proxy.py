"""A TCP proxy before PostgreSQL that can lose a COMMIT before the server sees it, or the reply to it.

It parses the frontend's messages (type, length, body) as far as needed to recognise a Query that begins with
COMMIT, wherever TCP splits the stream. A change outside a transaction, prepared or not, is a COMMIT too. It can
also report other process numbers than the server's to its clients, as a pooler does.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from bindings.store.grants import FUNCTION

if TYPE_CHECKING:
    from typing import Self

SSL_REQUEST = 80877103
GSS_REQUEST = 80877104
CHANGES = (b"INSERT INTO", b"UPDATE ", FUNCTION.encode())
KEY_DATA = b"K" + struct.pack("!I", 12)  # with the number of the server's process behind it


class Lose(StrEnum):
    """What is lost, together with the connection."""

    REPLY = "the server commits, and its reply never arrives"
    COMMIT = "the connection is cut before the server sees the COMMIT"


class CommitProxy:
    """Listens on a port of its own and forwards everything. A context manager; thread-safe.

    `lose(loss, nth)` loses the nth COMMIT from now on that follows a statement which contains `after`. With
    `pools` it reports process numbers of its own.
    """

    def __init__(self, url: str, *, pools: bool = False) -> None:
        self.pools = pools
        parsed = make_url(url)
        self._server = (parsed.host or "127.0.0.1", parsed.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = parsed.set(host="127.0.0.1", port=self._listener.getsockname()[1]).render_as_string(
            hide_password=False
        )
        self._lock = threading.Lock()
        self._loss: Lose | None = None
        self._remaining = 0
        self._after = b""
        self._times = 0
        self.triggered = threading.Event()
        self.commits = 0
        self._open: set[socket.socket] = set()

    def lose(self, loss: Lose, *, after: str, nth: int = 1, times: int = 1) -> None:
        """Lose the `nth` COMMIT from now on, `times` times."""
        with self._lock:
            self._loss, self._remaining, self._after, self._times = loss, nth, after.encode(), times
            self.triggered.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut_down(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open |= {client, server}
                pair = _Pair(self, client, server)
                for pump in (pair.forward, pair.backward):
                    threading.Thread(target=pump, name="proxy-connection", daemon=True).start()

    def loss_of_commit(self, statements: bytes) -> Lose | None:
        """Count a COMMIT that follows `statements`; return what to lose, or None."""
        with self._lock:
            self.commits += 1
            if self._loss is None or self._after not in statements:
                return None
            self._remaining -= 1
            if self._remaining > 0:
                return None
            loss = self._loss
            self._times -= 1
            if self._times == 0:
                self._loss = None
            self.triggered.set()
            return loss


class _Pair:
    """One client's connection and its connection to the server."""

    def __init__(self, proxy: CommitProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._drop_replies = threading.Event()
        self._statements = b""
        self._prepared: dict[bytes, bytes] = {}
        self._in_transaction = False

    def forward(self) -> None:
        """Forward from the client to the server, message by message."""
        with contextlib.suppress(OSError):
            reader = self._client.makefile("rb")
            self._start_up(reader)
            while header := reader.read(5):
                body = reader.read(struct.unpack("!I", header[1:])[0] - 4)
                if self._is_commit(header[:1], body):
                    loss = self._proxy.loss_of_commit(self._statements)
                    self._statements = b""
                    if loss is Lose.COMMIT:
                        break
                    if loss is Lose.REPLY:
                        self._drop_replies.set()
                self._server.sendall(header + body)
        self._end()

    def _is_commit(self, kind: bytes, body: bytes) -> bool:
        """Return whether the server commits on this message; remember the statement."""
        if kind == b"Q":
            if body.startswith(b"COMMIT"):
                self._in_transaction = False
                return True
            ends = body.startswith(b"ROLLBACK") and not body.startswith(b"ROLLBACK TO")
            self._in_transaction = body.startswith(b"BEGIN") or (self._in_transaction and not ends)
            self._statements += body
        if kind == b"P":
            self._prepared[body.partition(b"\0")[0]] = body
        if kind == b"B":
            statement = self._prepared.get(body.split(b"\0", 2)[1], b"")
            self._statements += statement
            return not self._in_transaction and any(word in statement for word in CHANGES)
        return False

    def backward(self) -> None:
        """Forward from the server to the client; stop when a reply is to be lost."""
        with contextlib.suppress(OSError):
            while data := self._server.recv(65_536):
                if self._drop_replies.is_set():
                    break  # the COMMIT is done: this is its reply
                if self._proxy.pools and KEY_DATA in data:
                    before, _, after = data.partition(KEY_DATA)
                    data = before + KEY_DATA + b"\0\0\0\1" + after[4:]
                self._client.sendall(data)
        self._end()

    def _start_up(self, reader: object) -> None:
        read = reader.read  # type: ignore[attr-defined]
        while True:
            length = read(4)
            body = read(struct.unpack("!I", length)[0] - 4)
            self._server.sendall(length + body)
            if struct.unpack("!I", body[:4])[0] not in (SSL_REQUEST, GSS_REQUEST):
                return

    def _end(self) -> None:
        for connection in (self._client, self._server):
            _shut_down(connection)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
