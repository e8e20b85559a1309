"""Servers of raw sockets on loopback, for answers that no HTTP library would send.

A server reads one whole request per connection, keeps it, and hands the connection to a script. A script that
waits does so on `released`, which is set when the test is over: nothing sleeps and no thread stays behind.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from datetime import timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.phone import Phone
from bindings.provider.client import ProviderClient

if TYPE_CHECKING:
    from bindings.provider.outcome import BindOutcome

PEM = Path(__file__).with_name("localhost.pem")  # self-signed, for tests only: key and certificate
DRIP_S = 0.02

LIMIT_S = 1.0  # for calls that time out: enough to connect and send on a busy machine
ANSWERED_S = 60.0  # for calls that get an answer: never reached
KEY, SECRET = "key-3f7a", "secret-9c2e"
REQUEST = BindRequest(
    phone_a=Phone("9188067701"),
    phone_b=Phone("9188067799"),
    pool_number="918806",
    expire_s=60,
    mode=Mode.AXB,
    app_id="4luaKsL2",
)
SUCCESS: dict[str, Any] = {
    "status": "0",
    "reason": "success",
    "data": {"pnsNumberA": "9188061024", "pnsNumberB": "9188061024", "bindId": 1002},
}

Script = Callable[[socket.socket, "Server"], None]


class Server:
    """Listens on a free port while its `with` block runs; `requests` are the whole requests it has read."""

    def __init__(
        self, script: Script, *, reads: bool = True, tls: ssl.SSLContext | None = None, scheme: str = ""
    ) -> None:
        self.requests: list[bytes] = []
        self.requests_of: dict[object, bytes] = {}  # by the client's address
        self.released = threading.Event()
        self._script = script
        self._reads = reads
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads: list[threading.Thread] = []
        scheme = scheme or ("https" if tls else "http")
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def posts(self) -> int:
        return sum(request.startswith(b"POST ") for request in self.requests)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(ANSWERED_S)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWERED_S)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            if self._reads:
                request = _whole_request(connection)
                self.requests.append(request)
                self.requests_of[connection.getpeername()] = request
            self._script(connection, self)
        except OSError:
            pass  # the client gave up, which is what many tests are about
        finally:
            connection.close()


def _whole_request(connection: socket.socket) -> bytes:
    read = b""
    while b"\r\n\r\n" not in read:
        read += _receive(connection)
    head, _, body = read.partition(b"\r\n\r\n")
    lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += _receive(connection)
    return head + b"\r\n\r\n" + body


def _receive(connection: socket.socket) -> bytes:
    read = connection.recv(65536)
    if not read:
        raise ConnectionError
    return read


def header(request: bytes, name: str) -> str | None:
    """The value of a header of a whole request, or None."""
    for line in request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return None


def body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def http(content: bytes, *, status: int = 200, headers: str = "") -> bytes:
    """A whole HTTP reply; `headers` are lines that end in CR LF."""
    return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(content)}\r\n\r\n".encode() + content


def says(reply: bytes) -> Script:
    """Send this and close."""
    return lambda connection, _: connection.sendall(reply)


def stays_silent(_: socket.socket, server: Server) -> None:
    server.released.wait()


def drips(start: bytes) -> Script:
    """Send a start, then one byte again and again."""

    def script(connection: socket.socket, server: Server) -> None:
        connection.sendall(start)
        while not server.released.wait(DRIP_S):
            connection.sendall(b"x")

    return script


def resets(start: bytes = b"") -> Script:
    """Send a start, then a TCP reset."""

    def script(connection: socket.socket, _: Server) -> None:
        connection.sendall(start)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def client_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=PEM)


def answer(*, http_status: int = 200, headers: str = "", **changed: object) -> bytes:
    """The documented success, with some of its fields changed."""
    return http(json.dumps(SUCCESS | changed).encode(), status=http_status, headers=headers)


def client(url: str, **options: Any) -> ProviderClient:
    defaults: dict[str, Any] = {
        "api_key": KEY,
        "api_secret": SECRET,
        "timeout_s": ANSWERED_S,
        "path_prefix": "/v3",
    }
    zone = timezone(timedelta(hours=8))
    return ProviderClient(base_url=url, zone=zone, **(defaults | options))


def bind(provider: ProviderClient, request: BindRequest = REQUEST) -> BindOutcome:
    return provider.bind(request, send_before=time.monotonic() + ANSWERED_S)
