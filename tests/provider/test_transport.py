"""What never leaves, what TLS and a deadline do to a call, and what the environment must not do."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bindings import http_transport
from bindings.domain.phone import Phone
from bindings.http_transport import NotSent, Unknown
from bindings.provider.client import TOO_LATE
from bindings.provider.outcome import BindSucceeded
from tests.provider.sockets import (
    ANSWERED_S,
    LIMIT_S,
    PEM,
    REQUEST,
    Server,
    answer,
    bind,
    body,
    client,
    client_tls,
    drips,
    header,
    http,
    resets,
    says,
    server_tls,
    stays_silent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.provider.sockets import Script


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused_connection_is_not_sent(scheme: str) -> None:
    outcome = bind(client(f"{scheme}://127.0.0.1:{closed_port()}"))
    assert outcome == NotSent(reason="connect: connection refused")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unknown_host_name_is_not_sent(scheme: str) -> None:
    outcome = bind(client(f"{scheme}://nonexistent.invalid"))
    assert isinstance(outcome, NotSent)
    assert outcome.reason.startswith("name resolution: ")


@pytest.mark.parametrize("url", ["http://a..b", "http://[::1", "http://" + "a" * 70])
def test_invalid_url_is_not_sent(url: str) -> None:
    assert isinstance(bind(client(url)), NotSent)


@pytest.fixture
def full() -> Iterator[int]:
    """A port whose queue of connections is full, so that the system drops what else comes."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_connect_timeout_is_not_sent(full: int) -> None:
    outcome = bind(client(f"http://127.0.0.1:{full}", timeout_s=LIMIT_S))
    assert outcome == NotSent(reason="connect: timed out")


def test_next_address_of_a_name_is_used_if_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(says(answer())) as server:
        ports = (closed_port(), int(server.url.rpartition(":")[2]))
        addresses = [socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0] for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert isinstance(bind(client("http://provider.test")), BindSucceeded)
        assert server.posts == 1


@pytest.mark.parametrize("dead", [1, 3])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_living_address_is_used_if_those_before_it_do_not_answer(
    full: int, monkeypatch: pytest.MonkeyPatch, dead: int, scheme: str
) -> None:
    with Server(says(answer()), tls=server_tls() if scheme == "https" else None) as server:
        port = int(server.url.rpartition(":")[2])
        lookup = socket.getaddrinfo
        addresses = [lookup("127.0.0.1", number, type=socket.SOCK_STREAM)[0] for number in [full] * dead + [port]]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert isinstance(bind(client(f"{scheme}://localhost", tls=client_tls(), timeout_s=30)), BindSucceeded)
        assert server.posts == 1


def test_call_with_little_time_still_tries_the_second_address(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = (full, closed_port())
    addresses = [socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0] for port in ports]
    tried: list[int] = []
    begin = socket.socket.connect

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[1])
        begin(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(http_transport, "NEXT_ADDRESS_S", 60.0)  # longer than the whole call may take
    assert isinstance(bind(client("http://provider.test", timeout_s=2)), NotSent)
    assert tried == list(ports)


def test_only_the_address_that_answers_first_gets_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(says(answer())) as first, Server(says(answer())) as second:
        ports = [int(server.url.rpartition(":")[2]) for server in (first, second)]
        addresses = [socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)[0] for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        assert isinstance(bind(client("http://provider.test")), BindSucceeded)
        assert (first.posts, second.posts) == (1, 0)


@pytest.mark.parametrize("addresses", [[], [(99, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))]])
def test_name_without_a_usable_address_is_not_sent(monkeypatch: pytest.MonkeyPatch, addresses: list[Any]) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    outcome = bind(client("http://provider.test"))
    assert isinstance(outcome, NotSent)
    assert outcome.reason.startswith("connect: ")


def limit_of(reason: str) -> float:
    return LIMIT_S if "timed out" in reason else ANSWERED_S


class Clock:
    """The monotonic clock, which a test can push forward."""

    def __init__(self) -> None:
        self.pushed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.pushed


def test_addresses_of_a_name_share_one_deadline(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, addresses = Clock(), socket.getaddrinfo("127.0.0.1", full, type=socket.SOCK_STREAM) * 5
    waits: list[float] = []

    def wait_in_vain(_: object, seconds: float) -> list[Any]:
        waits.append(seconds)
        clock.pushed += seconds
        return []

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    monkeypatch.setattr(selectors.DefaultSelector, "select", wait_in_vain)
    assert bind(client("http://provider.test", monotonic=clock)) == NotSent(reason="connect: timed out")
    assert len(waits) == len(addresses)
    assert sum(waits) == pytest.approx(ANSWERED_S, abs=1.0)


def test_name_lookup_past_the_deadline_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, lookup = Clock(), socket.getaddrinfo

    def slow(*args: Any, **options: Any) -> Any:
        clock.pushed += 2 * ANSWERED_S
        return lookup(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with Server(says(answer())) as server:
        assert bind(client(server.url, monotonic=clock)) == NotSent(reason="connect: timed out")
        assert server.posts == 0


def test_name_lookup_that_does_not_end_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, lookup = threading.Event(), socket.getaddrinfo

    def hanging(*args: Any, **options: Any) -> Any:
        ended.wait()
        return lookup(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    with Server(says(answer())) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        try:
            assert bind(client(url, timeout_s=LIMIT_S)) == NotSent(reason="name resolution: timed out")
        finally:
            ended.set()
            for thread in threading.enumerate():
                if thread.name == "bindings-look-up":
                    thread.join()
        assert server.posts == 0


def test_error_of_a_name_lookup_is_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    assert bind(client("http://localhost:1")) == NotSent(reason="name resolution: name not found")


def test_process_paused_while_signing_sends_nothing() -> None:
    clock = Clock()

    def paused_wall() -> float:
        clock.pushed += 2 * ANSWERED_S
        return time.time()

    with Server(says(answer())) as server:
        outcome = bind(client(server.url, monotonic=clock, wall=paused_wall))
        assert outcome == NotSent(reason=TOO_LATE)
        assert server.requests == []


def test_bind_after_send_before_is_not_sent() -> None:
    with Server(says(answer())) as server:
        outcome = client(server.url).bind(REQUEST, send_before=time.monotonic() - 0.001)
        assert outcome == NotSent(reason=TOO_LATE)
        assert server.requests == []


def test_a_closed_client_sends_nothing() -> None:
    with Server(says(answer())) as server:
        provider = client(server.url)
        provider.close()
        provider.close()
        assert bind(provider) == NotSent(reason="the client is closed")
        assert server.requests == []


def test_server_that_does_not_read_cannot_block_the_sender() -> None:
    # More than the buffers of both ends take.
    huge = replace(REQUEST, pool_number="9" * 16_000_000)
    with Server(stays_silent, reads=False) as server:
        outcome = bind(client(server.url, timeout_s=LIMIT_S), huge)
    assert isinstance(outcome, Unknown)
    assert outcome.reason == "send: timed out"


def resets_on_the_first_byte(connection: socket.socket, server: Server) -> None:
    connection.recv(1)
    resets()(connection, server)


def test_reset_during_the_request_is_unknown() -> None:
    with Server(resets_on_the_first_byte, reads=False) as server:
        assert isinstance(bind(client(server.url)), Unknown)


def test_bind_over_tls_succeeds() -> None:
    with Server(says(answer()), tls=server_tls()) as server:
        assert isinstance(bind(client(server.url, tls=client_tls())), BindSucceeded)
        assert server.posts == 1


def test_untrusted_certificate_is_not_sent() -> None:
    with Server(says(answer()), tls=server_tls()) as server:
        assert bind(client(server.url)) == NotSent(reason="TLS handshake: certificate not trusted")
        assert server.requests == []


def test_certificate_of_another_host_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Server(says(answer()), tls=server_tls()) as server:
        port = int(server.url.rpartition(":")[2])
        addresses = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        outcome = bind(client("https://provider.test", tls=client_tls()))
        assert outcome == NotSent(reason="TLS handshake: certificate not trusted")
        assert server.requests == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (says(http(b"this is not TLS")), "TLS handshake: TLS error"),
        (stays_silent, "TLS handshake: timed out"),
        (drips(b"\x16\x03\x03\x40\x00"), "TLS handshake: timed out"),
        (resets_on_the_first_byte, "TLS handshake: connection reset"),
    ],
    ids=["no TLS", "silence", "dripping", "reset"],
)
def test_failed_handshake_is_not_sent(script: Script, reason: str) -> None:
    with Server(script, reads=False, scheme="https") as server:
        assert bind(client(server.url, timeout_s=limit_of(reason))) == NotSent(reason=reason)


def garbles(connection: socket.socket, server: Server) -> None:
    """Write past the TLS layer, so that the client finds a broken record."""
    os.write(connection.fileno(), b"this is not a TLS record at all")
    server.released.wait()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (garbles, "read: TLS error"),
        (stays_silent, "read: timed out"),
        (drips(b"HTTP/1.1 200 OK\r\nX: "), "read: timed out"),
        (drips(b"HTTP/1.1 200 OK\r\n\r\n"), "read: timed out"),
        (resets(), "read: "),  # a reset may show as the end of the stream here
    ],
    ids=["garbled", "silent", "drips headers", "drips a body", "resets"],
)
def test_failure_after_the_handshake_is_unknown(script: Script, reason: str) -> None:
    with Server(script, tls=server_tls()) as server:
        outcome = bind(client(server.url, tls=client_tls(), timeout_s=limit_of(reason)))
        assert server.posts == 1
    assert isinstance(outcome, Unknown)
    assert outcome.reason.startswith(reason)
    assert outcome.sent is not None


def test_proxy_variables_and_netrc_do_not_affect_a_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password else\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Server(says(answer())) as server:
        assert isinstance(bind(client(server.url)), BindSucceeded)
        (request,) = server.requests
    assert header(request, "Authorization") is None


def test_libraries_do_not_retry() -> None:
    attempt = http_transport._Attempt(deadline=0, monotonic=time.monotonic, tls=None, accepts=None)
    retries = http_transport._OneCallAdapter(attempt).max_retries
    assert (retries.total, retries.read) == (0, False)


def test_each_call_opens_its_own_connection_and_sends_no_cookie() -> None:
    keep_alive = answer(headers="Connection: keep-alive\r\nSet-Cookie: a=b\r\n")
    with Server(says(keep_alive)) as server:
        provider = client(server.url)
        for _ in range(3):
            assert isinstance(bind(provider), BindSucceeded)
        assert server.posts == 3
        assert {header(request, "Connection") for request in server.requests} == {"close"}
        assert {header(request, "Cookie") for request in server.requests} == {None}


def test_concurrent_calls_get_their_own_responses() -> None:
    def echo(connection: socket.socket, server: Server) -> None:
        digits = body(server.requests_of[connection.getpeername()]).split(b'"')[3].decode()
        data = {"bindId": digits, "pnsNumberA": "1", "pnsNumberB": "1"}
        connection.sendall(answer(data=data))

    answered: dict[str, str] = {}

    def caller(number: int) -> None:
        for step in range(5):
            digits = f"9188{number:03}{step:03}"
            outcome = bind(provider, replace(REQUEST, phone_a=Phone(digits)))
            assert isinstance(outcome, BindSucceeded)
            answered[digits] = outcome.bind_id

    with Server(echo) as server:
        provider = client(server.url)
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ANSWERED_S)
    assert len(answered) == 40
    assert all(digits == bind_id for digits, bind_id in answered.items())


def test_authorities_of_the_host_are_trusted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", "")
    monkeypatch.setenv("SSL_CERT_FILE", "")
    before = http_transport.tls_context().cert_store_stats()["x509"]
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    assert http_transport.tls_context().cert_store_stats()["x509"] == before + 1


def test_retry_after_date_counts_from_the_date_of_the_response() -> None:
    """The clock of the server may be wrong: only the difference of its two times counts."""
    reply = http_transport.Reply(
        http_status=429,
        date="Fri, 01 Jan 2100 00:00:00 GMT",
        age=None,
        retry_after="Fri, 01 Jan 2100 00:00:07 GMT",
        body=b"",
        sent=0.0,
        answered=0.0,
    )
    assert reply.retry_after_s == 7
