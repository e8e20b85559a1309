"""When the provider's Date header is believed, and which timestamp is sent then."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from bindings.provider.outcome import BindSucceeded
from tests.provider.sockets import Server, answer, bind, client, header, http, resets, says

if TYPE_CHECKING:
    import socket

    from bindings.provider.client import ProviderClient

NOW = 1_800_000_000.0
HOURS_S = 8 * 3_600.0


@dataclass
class Provider:
    """A provider whose clock, status and headers a test changes between two calls."""

    offset_s: float = 0.0
    status: str = "0"
    headers: str = ""
    http_status: int = 200
    body: bytes | None = None
    elapsed_s: float = 0.0

    def __call__(self, connection: socket.socket, server: Server) -> None:
        headers = f"Date: {formatdate(NOW + self.offset_s, usegmt=True)}\r\n{self.headers}"
        reply = (
            answer(http_status=self.http_status, headers=headers, status=self.status)
            if self.body is None
            else http(self.body, status=self.http_status, headers=headers)
        )
        says(reply)(connection, server)

    def client(self, server: Server, **options: bool) -> ProviderClient:
        """Return a client whose wall clock stands at NOW, and whose monotonic clock the test moves."""
        return client(server.url, wall=lambda: NOW, monotonic=lambda: time.monotonic() + self.elapsed_s, **options)


def stamps(server: Server) -> list[int]:
    return [int(header(request, "Timestamp") or "") for request in server.requests]


def call(provider: ProviderClient) -> None:
    provider.page(app_id="a", current=1, size=1)


@pytest.mark.parametrize("offset_s", [40.0, 90.0, -HOURS_S, HOURS_S, 30 * 365 * 86_400.0])
def test_timestamps_that_are_accepted_are_not_corrected(offset_s: float) -> None:
    state = Provider(offset_s=offset_s)
    with Server(state) as server:
        provider = state.client(server)
        for _ in range(3):
            call(provider)
            state.elapsed_s += 61.0
        assert stamps(server) == [NOW, NOW, NOW]
        assert provider.clock.believed_skew_s is None
        assert provider.clock.measured_skew_s == pytest.approx(offset_s + 0.5, abs=0.3)


@pytest.mark.parametrize("offset_s", [40.0, -400.0])
def test_refused_timestamp_is_followed_by_a_corrected_one(offset_s: float) -> None:
    state = Provider(offset_s=offset_s, status="-16")
    with Server(state) as server:
        provider = state.client(server)
        call(provider)
        state.status = "0"
        call(provider)
        assert stamps(server) == [NOW, pytest.approx(NOW + offset_s, abs=1)]
        assert provider.clock.believed_skew_s == pytest.approx(offset_s + 0.5, abs=0.3)
        state.offset_s = 0.0
        call(provider)
        call(provider)
        assert stamps(server)[-1] == NOW, "the correction follows the newest header"


def test_corrected_timestamp_that_is_refused_is_followed_by_the_own_time() -> None:
    state = Provider(offset_s=HOURS_S, status="-16")
    with Server(state) as server:
        provider = state.client(server)
        call(provider)
        call(provider)
        state.status = "0"
        call(provider)
        call(provider)
        assert stamps(server) == [NOW, pytest.approx(NOW + HOURS_S, abs=1), NOW, NOW]


@pytest.mark.parametrize(
    ("apart_s", "second_offset_s", "believed"), [(61.0, 90.0, True), (30.0, 90.0, False), (61.0, 300.0, False)]
)
def test_two_dates_a_minute_apart_confirm_each_other(
    apart_s: float, second_offset_s: float, believed: bool
) -> None:
    state = Provider(offset_s=90.0, status="-35")
    with Server(state) as server:
        provider = state.client(server)
        call(provider)
        state.elapsed_s += apart_s
        state.offset_s = second_offset_s
        call(provider)
        assert (provider.clock.believed_skew_s is not None) == believed


def test_accepted_timestamp_breaks_the_confirmation() -> None:
    state = Provider(offset_s=90.0, status="-35")
    with Server(state) as server:
        provider = state.client(server)
        for status in ("-35", "0", "-35"):
            state.status = status
            call(provider)
            state.elapsed_s += 61.0
        assert provider.clock.believed_skew_s is None


@pytest.mark.parametrize(
    "other",
    [
        Provider(offset_s=HOURS_S, status="-16", headers="Age: 30\r\n"),
        Provider(offset_s=HOURS_S, http_status=502, status="-16"),
        Provider(offset_s=HOURS_S, http_status=502, body=b"<html>Bad Gateway</html>"),
        Provider(offset_s=HOURS_S, body=b"<html>Sign in</html>"),
    ],
    ids=["cached", "gateway's status", "gateway's page", "captive portal"],
)
def test_date_of_another_server_is_not_measured(other: Provider) -> None:
    with Server(other) as server:
        provider = other.client(server)
        for _ in range(3):
            call(provider)
            other.elapsed_s += 61.0
        assert stamps(server) == [NOW, NOW, NOW]
        assert provider.clock.measured_skew_s is None


def test_date_is_ignored_if_the_settings_say_so() -> None:
    state = Provider(offset_s=HOURS_S, status="-16")
    with Server(state) as server:
        provider = state.client(server, ignore_date=True)
        call(provider)
        call(provider)
        assert stamps(server) == [NOW, NOW]
        assert provider.clock.measured_skew_s is None


@pytest.mark.parametrize("offset_s", [-2, -1, 0, 1])
def test_skew_within_the_error_is_not_corrected(offset_s: int) -> None:
    state = Provider(offset_s=offset_s, status="-16")
    with Server(state) as server:
        provider = state.client(server)
        call(provider)
        call(provider)
        assert stamps(server) == [NOW, NOW]


def test_skew_is_none_without_a_response() -> None:
    with Server(resets()) as server:
        provider = client(server.url)
        bind(provider)
        assert provider.clock.measured_skew_s is None


@pytest.mark.parametrize("date", ["yesterday", "Mon, 99 Foo 2026 00:00:00 GMT", "", "Thu, 01 Jan 99999 0:0:0"])
def test_invalid_date_header_leaves_the_skew_unmeasured(date: str) -> None:
    with Server(says(answer(headers=f"Date: {date}\r\n"))) as server:
        provider = client(server.url)
        assert isinstance(bind(provider), BindSucceeded)
        assert provider.clock.measured_skew_s is None
