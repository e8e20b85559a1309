"""One POST, to the provider or a webhook: a fresh connection, one deadline for all of it, and never a second try.

Here lives what has to be known about requests, urllib3 and sockets. What an answer means is in `client`.

The rule that this module keeps: a call is "not sent" only if no byte of the request was handed to the
system. The connection itself writes that down, because the exceptions do not tell: requests raises one class
for "refused" and for "reset after the server had read it all". Therefore:

- `requests.Session` is not used. Its adapter alone follows no redirect, reads no proxy variable and no
  .netrc, keeps no cookie, and is made anew for each call, so nothing is shared between threads.
- The deadline is set before every single socket operation. A timeout given to requests holds for each read,
  so that a reply of one byte a second would never end. The standard library bounds a TLS handshake and a
  `sendall` as a whole by the socket's timeout. A name lookup alone cannot be cut short without a thread; a
  deadline that it overran ends the call before anything is sent.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import IncompleteRead, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.connectionpool import HTTPConnectionPool

LONGEST_REPLY = 4 * 1024 * 1024  # bytes; a page of a hundred rows needs some twenty thousand
_CHUNK = 64 * 1024

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A complete reply.

    `sent` and `answered` are monotonic seconds: before the first byte of the request, after the last one of
    the reply. `date` and `retry_after` are its headers.
    """

    http_status: int
    date: str | None
    retry_after: str | None
    body: bytes
    sent: float
    answered: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSent:
    """No byte of the request can have reached the provider."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """The provider may or may not have acted. `status` is its status where it gave one."""

    reason: str
    status: str | None = None
    sent: float | None = None


class Phase(StrEnum):
    """How far a call has come."""

    PREPARE = "prepare"
    RESOLVE = "name resolution"
    CONNECT = "connect"
    HANDSHAKE = "TLS handshake"
    SEND = "send"
    READ = "read"


class _TooLongError(Exception):
    """The reply is longer than any reply of this provider."""


class _Attempt:
    """The progress of one call: written by its connection, read when the call has failed."""

    def __init__(self, *, deadline: float, monotonic: Clock, tls: ssl.SSLContext | None) -> None:
        self.phase = Phase.PREPARE
        self.sent: float | None = None
        self.tls = tls
        self._deadline = deadline
        self.monotonic = monotonic

    def remaining(self) -> float:
        """Seconds to the deadline; raises TimeoutError once there are none (0 would mean "do not wait")."""
        left = self._deadline - self.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def begin_send(self) -> float:
        """Note that a byte may leave from now on; the seconds that are left for sending."""
        left = self.remaining()
        if self.sent is None:
            self.phase = Phase.SEND
            self.sent = self.monotonic()
        return left


class _BoundedReader(io.RawIOBase):
    """Reads a socket, each time with what is left of the deadline."""

    def __init__(self, sock: socket.socket, attempt: _Attempt) -> None:
        self._sock = sock
        self._raw = cast("io.RawIOBase", sock.makefile("rb", buffering=0))
        self._attempt = attempt

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._attempt.remaining())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, attempt: _Attempt, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(sock, attempt))
        attempt.phase = Phase.READ


class _BoundedConnection(HTTPConnection):
    """An HTTP connection that keeps the deadline and notes what it has come to."""

    def __init__(self, *args: Any, attempt: _Attempt, **options: Any) -> None:
        super().__init__(*args, **options)
        self._attempt = attempt
        self.response_class = cast(
            "type[http.client.HTTPResponse]", functools.partial(_BoundedResponse, attempt=attempt)
        )

    def _new_conn(self) -> socket.socket:
        try:
            return self._connected()
        except OSError as error:
            # As urllib3 does: a bare reset would be taken for one that came after the request was sent.
            raise NewConnectionError(self, "no connection") from error

    def _connected(self) -> socket.socket:
        # urllib3's own loop gives each address of a name the whole timeout anew.
        self._attempt.phase = Phase.RESOLVE
        found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        self._attempt.phase = Phase.CONNECT
        failed: OSError = OSError("a name without an address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(self._attempt.remaining())
                sock.connect(address)
            except OSError as error:
                sock.close()
                failed = error
            else:
                return sock
        raise failed

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self._attempt.begin_send())
        super().send(data)


class _BoundedTLSConnection(_BoundedConnection, HTTPSConnection):
    """The same over TLS."""

    def connect(self) -> None:
        # Not urllib3's: that one writes to the context, which all threads share, at each connection.
        if self._attempt.tls is None:
            raise ssl.SSLError("no TLS context")
        sock = self._new_conn()
        self._attempt.phase = Phase.HANDSHAKE
        try:
            sock.settimeout(self._attempt.remaining())
            self.sock = self._attempt.tls.wrap_socket(sock, server_hostname=self.host.strip("[]"))
        except BaseException:
            sock.close()
            raise
        self.is_verified = True


class _OneCallAdapter(HTTPAdapter):
    """An adapter for one call: no retry, and connections that know the attempt they belong to."""

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool = cast("HTTPConnectionPool", super().get_connection_with_tls_context(*args, **options))
        kind = _BoundedTLSConnection if pool.scheme == "https" else _BoundedConnection
        pool.ConnectionCls = cast("Any", functools.partial(kind, attempt=self._attempt))
        return pool


def tls_context() -> ssl.SSLContext:
    """A context that trusts the certificate authorities of requests; safe to share between threads."""
    return ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)


def post(
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    deadline: float,
    monotonic: Clock,
    tls: ssl.SSLContext | None,
    max_body_bytes: int | None = None,
) -> Reply | NotSent | Unknown:
    """Send one POST and read the whole reply, or say how far it came; never raises, never tries again.

    `deadline` is a reading of `monotonic`, in seconds, that bounds everything from the lookup of the name to
    the last byte. Opens one connection and closes it. With `enough` no more than about that many bytes of the
    body are read, and the rest is left: for an answer whose status tells it all.
    """
    attempt = _Attempt(deadline=deadline, monotonic=monotonic, tls=tls)
    try:
        return _exchange(attempt, url, headers, body, max_body_bytes)
    except Exception as error:  # noqa: BLE001 -- whatever it is, a request may be on its way
        reason = f"{attempt.phase}: {_cause(error)}"
        return NotSent(reason=reason) if attempt.sent is None else Unknown(reason=reason, sent=attempt.sent)


def _exchange(
    attempt: _Attempt, url: str, headers: Mapping[str, str], body: bytes, enough: int | None
) -> Reply | Unknown:
    # "identity": a compressed reply could be small on the wire and huge in memory.
    closing = {"Connection": "close", "Accept": "application/json", "Accept-Encoding": "identity"}
    request = requests.Request("POST", url, headers={**headers, **closing}, data=body).prepare()
    adapter = _OneCallAdapter(attempt)
    try:
        # The timeout given here is overruled by the deadline; it must only not be none.
        with adapter.send(request, stream=True, timeout=attempt.remaining()) as response:
            content = _content(response, enough)
            answered = attempt.monotonic()
    finally:
        adapter.close()
    if attempt.sent is None:
        return Unknown(reason="answered before it was sent")
    return Reply(
        http_status=response.status_code,
        date=response.headers.get("Date"),
        retry_after=response.headers.get("Retry-After"),
        body=content,
        sent=attempt.sent,
        answered=answered,
    )


def _content(response: requests.Response, enough: int | None) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(_CHUNK if enough is None else enough):
        content += chunk
        if enough is not None and len(content) >= enough:
            break
        if len(content) > LONGEST_REPLY:
            raise _TooLongError
    return bytes(content)


_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (_TooLongError, "reply too long"),
    (ConnectionRefusedError, "connection refused"),
    (http.client.RemoteDisconnected, "closed without a reply"),  # before its base, the reset
    (ConnectionResetError, "connection reset"),
    (BrokenPipeError, "connection reset"),
    (TimeoutError, "timed out"),
    (socket.gaierror, "name not found"),
    (ssl.SSLCertVerificationError, "certificate not trusted"),
    (ssl.SSLError, "TLS error"),
    (IncompleteRead, "reply cut short"),
    (http.client.IncompleteRead, "reply cut short"),
    (http.client.HTTPException, "not HTTP"),
    (OSError, "network error"),
)


def _cause(error: BaseException) -> str:
    """A few words of our own: the texts of exceptions are long, and may show what they should not."""
    chain = list(_chain(error))
    for kind, words in _CAUSES:
        # The wrappers of requests are OSErrors themselves; the innermost error tells the most.
        if any(isinstance(link, kind) for link in chain if not isinstance(link, requests.RequestException)):
            return words
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        yield from (part for part in following.args if isinstance(part, BaseException))
        following = following.__cause__ or following.__context__
