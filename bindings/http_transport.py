"""One POST, to the provider or a webhook: a new connection, one deadline for the whole call, and no retry.

Everything that depends on requests, urllib3 and sockets belongs here. How a response is classified is decided in
`provider.client` and `webhooks.sender`.

Invariant: a call is `NotSent` only if no byte of the request was passed to the operating system. The connection
itself records that, because the exceptions do not tell: requests raises the same class for "connection refused"
and for "reset after the server had read the whole request". Therefore:

- `requests.Session` is not used. Its adapter alone follows no redirect, reads no proxy variable and no .netrc, and
  keeps no cookie. A new adapter is created for each call, so nothing is shared between threads.
- The deadline is applied before every single socket operation. A timeout passed to requests applies to each read,
  so that a response of one byte a second would never end. The standard library bounds a TLS handshake and a
  `sendall` as a whole by the socket's timeout. A name is looked up in a thread, which is left behind if it does
  not end in time: a resolver may take half a minute.
"""

from __future__ import annotations

import contextlib
import functools
import http
import http.client
import io
import ipaddress
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import IncompleteRead, NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from urllib3.connectionpool import HTTPConnectionPool

START_OF_BODY_S = 1.0  # for a body of which nothing matters
NEXT_ADDRESS_S = 0.25  # after which the next address of a name is tried beside the last one
_CHUNK = 64 * 1024

Clock = Callable[[], float]
AddressFilter = Callable[[str], bool]
_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A complete HTTP response.

    `sent` and `answered` are monotonic seconds: before the first byte of the request, and after the last one of
    the response. `date`, `age` and `retry_after` are its headers.
    """

    http_status: int
    date: str | None
    age: str | None
    retry_after: str | None
    body: bytes
    sent: float
    answered: float

    @property
    def retry_after_s(self) -> float | None:
        """Return the seconds of the header Retry-After, a number or a date; None if it is missing or malformed."""
        if self.retry_after is not None and self.retry_after.isdecimal():
            return float(self.retry_after)
        retry_at, now = parse_date(self.retry_after), parse_date(self.date)
        return None if retry_at is None else max(0.0, retry_at - (time.time() if now is None else now))


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSent:
    """No byte of the request can have reached the server."""

    label: ClassVar[str] = "not_sent"  # of the metrics' label `outcome`, as in `provider.outcome`

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """The server may or may not have acted.

    `status` is the provider's, if it returned one; `http_status` is that of a complete response that no answer of
    the provider's has, and `retry_after_s` the time that it names.
    """

    label: ClassVar[str] = "unknown"  # of the metrics' label `outcome`, as in `provider.outcome`

    reason: str
    status: str | None = None
    http_status: int | None = None
    sent: float | None = None
    retry_after_s: float | None = None

    @property
    def is_rate_limited(self) -> bool:
        """Return True if the server, or a gateway before it, limits how often it is called."""
        return self.http_status == http.HTTPStatus.TOO_MANY_REQUESTS


def parse_date(header: str | None) -> float | None:
    """Return the instant of a header with an HTTP date in Unix seconds; None if there is none in it."""
    try:
        date = parsedate_to_datetime(header or "")
        # A date without a zone, or with -0000, gives a naive value; HTTP dates are always UTC.
        return (date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class Phase(StrEnum):
    """How far a call has got; the values are part of the reason of an outcome."""

    PREPARE = "prepare"
    RESOLVE = "name resolution"
    CONNECT = "connect"
    HANDSHAKE = "TLS handshake"
    SEND = "send"
    READ = "read"


class _TooLongError(Exception):
    """The body of the response is longer than the caller accepts."""


class _AddressNotAllowedError(OSError):
    """The caller accepts none of the addresses of the host."""


class _Attempt:
    """The progress of one call: updated by its connection, read if the call fails."""

    def __init__(
        self, *, deadline: float, monotonic: Clock, tls: ssl.SSLContext | None, accepts: AddressFilter | None
    ) -> None:
        self.phase = Phase.PREPARE
        self.accepts = accepts
        self.sent: float | None = None
        self.tls = tls
        self._deadline = deadline
        self._ends_at = time.monotonic() + (deadline - monotonic())
        self.monotonic = monotonic

    def remaining(self) -> float:
        """Return the seconds to the deadline. Raise TimeoutError if none are left (0 would mean "do not wait")."""
        # Also by the machine's own clock: the caller's may stand still, in tests.
        seconds = min(self._deadline - self.monotonic(), self._ends_at - time.monotonic())
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def end_within(self, seconds: float) -> None:
        """Bring the deadline forward to so many seconds from now, if it is later."""
        self._ends_at = min(self._ends_at, time.monotonic() + seconds)

    def begin_send(self) -> float:
        """Record that a byte may be sent from now on; return the seconds to the deadline."""
        seconds = self.remaining()
        if self.sent is None:
            self.phase = Phase.SEND
            self.sent = self.monotonic()
        return seconds


class _BoundedReader(io.RawIOBase):
    """Reads a socket; each read may take as long as the deadline allows."""

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

    def begin(self) -> None:
        """Read the head of the response; interim ones, such as 103 Early Hints, come before it."""
        super().begin()
        while http.HTTPStatus.SWITCHING_PROTOCOLS < self.status < http.HTTPStatus.OK:
            self.headers = self.msg = None  # type: ignore[assignment]  # as if nothing was read yet
            super().begin()


class _BoundedConnection(HTTPConnection):
    """An HTTP connection that keeps the deadline and records its progress in the attempt."""

    def __init__(self, *args: Any, attempt: _Attempt, **options: Any) -> None:
        super().__init__(*args, **options)
        self._attempt = attempt
        self.response_class = cast(
            "type[http.client.HTTPResponse]", functools.partial(_BoundedResponse, attempt=attempt)
        )

    def _new_conn(self) -> socket.socket:
        try:
            return self._connect_socket()
        except OSError as error:
            # As urllib3 does: a plain reset would look like one that came after the request was sent.
            raise NewConnectionError(self, "no connection") from error

    def _connect_socket(self) -> socket.socket:
        self._attempt.phase = Phase.RESOLVE
        addresses = _look_up(self._dns_host.strip("[]"), self.port, self._attempt)
        self._attempt.phase = Phase.CONNECT
        # Checked where it connects: a name may have another address than a moment before.
        if self._attempt.accepts is not None:
            addresses = [info for info in addresses if self._attempt.accepts(str(info[4][0]))]
            if not addresses:
                raise _AddressNotAllowedError
        return _connect_to_any(addresses, self._attempt)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self._attempt.begin_send())
        super().send(data)


class _BoundedTLSConnection(_BoundedConnection, HTTPSConnection):
    """A `_BoundedConnection` over TLS."""

    def connect(self) -> None:
        # Replaces urllib3's, which modifies the context, shared by all threads, at each connection.
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


def _look_up(host: str, port: int, attempt: _Attempt) -> Sequence[_AddressInfo]:
    """Return the addresses of a host. Raises TimeoutError at the deadline, also if the resolver goes on."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if _is_address(host):
        return look_up()
    outcomes: SimpleQueue[Sequence[_AddressInfo] | Exception] = SimpleQueue()

    def run() -> None:
        try:
            outcomes.put(look_up())
        except Exception as error:  # noqa: BLE001 -- raised by the caller
            outcomes.put(error)

    threading.Thread(target=run, name="bindings-look-up", daemon=True).start()
    try:
        outcome = outcomes.get(timeout=attempt.remaining())
    except Empty:
        raise TimeoutError from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _connect_to_any(addresses: Sequence[_AddressInfo], attempt: _Attempt) -> socket.socket:
    """Return a connection to the first address that accepts one; the others are closed before a byte is sent.

    As in RFC 8305: while an address does not answer, the next one is tried beside it. In urllib3's own loop a dead
    address uses up the time of the whole call, and the others are never tried.
    """
    waiting = list(addresses)
    error: OSError = OSError("the name has no address")
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    error = _begin_connect(waiting.pop(0), selector) or error
                if not selector.get_map():
                    continue
                limit_s = attempt.remaining() / (len(waiting) + 1)
                for key, _ in selector.select(min(limit_s, NEXT_ADDRESS_S) if waiting else limit_s):
                    sock = cast("socket.socket", key.fileobj)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    selector.unregister(sock)
                    if code == 0:
                        return sock
                    sock.close()
                    error = OSError(code, os.strerror(code))
            raise error
        finally:
            for key in list(selector.get_map().values()):
                cast("socket.socket", key.fileobj).close()


def _begin_connect(info: _AddressInfo, selector: selectors.BaseSelector) -> OSError | None:
    """Begin to connect without waiting, and watch the socket; return the error if that cannot begin."""
    family, kind, protocol, _, address = info
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:  # a family that this host does not have
        return error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
    except OSError as error:
        sock.close()
        return error
    selector.register(sock, selectors.EVENT_WRITE)
    return None


class _OneCallAdapter(HTTPAdapter):
    """An adapter for one call: no retry, and connections that record their progress in the attempt."""

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool = cast("HTTPConnectionPool", super().get_connection_with_tls_context(*args, **options))
        kind = _BoundedTLSConnection if pool.scheme == "https" else _BoundedConnection
        pool.ConnectionCls = cast("Any", functools.partial(kind, attempt=self._attempt))
        return pool


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities of requests and of this host; safe to share between threads.

    Those of the host are where OpenSSL looks, or in SSL_CERT_FILE and SSL_CERT_DIR.
    """
    context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    context.load_default_certs()
    return context


def post(
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    deadline: float,
    monotonic: Clock,
    tls: ssl.SSLContext | None,
    max_body_bytes: int,
    truncate: bool = False,
    accepts: AddressFilter | None = None,
) -> Reply | NotSent | Unknown:
    """Send one POST and return the whole response, or how far the call got. Never raises, never retries.

    `deadline` is a reading of `monotonic`, in seconds, that bounds everything from the name lookup to the last
    byte. Opens one connection and closes it. A body longer than `max_body_bytes` is an error. With `truncate` only
    the head of the response matters: its body ends there, or where it cannot be read. `accepts` is called with
    each address of the host and returns whether to connect to it (None: to any).
    """
    attempt = _Attempt(deadline=deadline, monotonic=monotonic, tls=tls, accepts=accepts)
    try:
        return _exchange(attempt, url, headers, body, max_body_bytes, truncate=truncate)
    except Exception as error:  # noqa: BLE001 -- after any error the request may have been sent
        reason = f"{attempt.phase}: {_cause(error)}"
        return NotSent(reason=reason) if attempt.sent is None else Unknown(reason=reason, sent=attempt.sent)


def _exchange(
    attempt: _Attempt,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    max_body_bytes: int,
    *,
    truncate: bool,
) -> Reply | Unknown:
    # "identity": a compressed response could be small on the wire and huge in memory.
    fixed_headers = {"Connection": "close", "Accept": "application/json", "Accept-Encoding": "identity"}
    request = requests.Request("POST", url, headers={**headers, **fixed_headers}, data=body).prepare()
    adapter = _OneCallAdapter(attempt)
    try:
        # The deadline overrides this timeout; it only must not be None.
        with adapter.send(request, stream=True, timeout=attempt.remaining()) as response:
            if truncate:
                content = _read_start_of_body(response, max_body_bytes, attempt)
            else:
                content = _read_body(response, max_body_bytes)
            answered = attempt.monotonic()
    finally:
        adapter.close()
    if attempt.sent is None:
        return Unknown(reason="answered before it was sent")
    return Reply(
        http_status=response.status_code,
        date=response.headers.get("Date"),
        age=response.headers.get("Age"),
        retry_after=response.headers.get("Retry-After"),
        body=content,
        sent=attempt.sent,
        answered=answered,
    )


def _read_body(response: requests.Response, max_bytes: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(min(_CHUNK, max_bytes)):
        content += chunk
        if len(content) > max_bytes:
            raise _TooLongError
    return bytes(content)


def _read_start_of_body(response: requests.Response, max_bytes: int, attempt: _Attempt) -> bytes:
    """Return what comes of a body within `START_OF_BODY_S`; an error ends it.

    It is read because some servers take a connection that is closed before for an error.
    """
    attempt.end_within(START_OF_BODY_S)
    with contextlib.suppress(Exception):
        return next(response.iter_content(max_bytes), b"")
    return b""


_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (_TooLongError, "reply too long"),
    (_AddressNotAllowedError, "not a public address, and not in BINDINGS_WEBHOOK_NETWORKS"),
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
    """Return our own words for an exception: its text is long and may contain secrets or phone numbers."""
    chain = list(_chain(error))
    for kind, words in _CAUSES:
        # The wrappers of requests are OSErrors themselves; the innermost error is the most specific one.
        if any(isinstance(link, kind) for link in chain if not isinstance(link, requests.RequestException)):
            return words
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        yield from (part for part in link.args if isinstance(part, BaseException))
        link = link.__cause__ or link.__context__
