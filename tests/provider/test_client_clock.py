"""The timestamp and signature of a call, the circuits, and what is logged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import BindOutcome, BindSucceeded, Refusal, Refused
from bindings.provider.signing import signature
from tests.provider.sockets import (
    KEY,
    SECRET,
    Server,
    answer,
    bind,
    body,
    client,
    header,
    http,
    resets,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.client import ProviderClient
    from tests.provider.sockets import Script

NOW = 1_800_000_000.0


def test_bind_is_sent_exactly_as_documented() -> None:
    with Server(says(answer())) as server:
        bind(client(server.url + "/base/", wall=lambda: NOW))
        (request,) = server.requests
    assert request.startswith(b"POST /base/v3/number/pns/bind HTTP/1.1\r\n")
    assert header(request, "Content-Type") == "application/json;charset=UTF-8"
    assert header(request, "Api-Key") == KEY
    assert header(request, "Timestamp") == "1800000000"
    assert header(request, "Sign") == signature(api_key=KEY, api_secret=SECRET, timestamp=1_800_000_000)
    assert list(json.loads(body(request)).values()) == [
        "9188067701",
        "9188067799",
        "918806",
        60,
        1,
        "4luaKsL2",
    ]


CALLS: dict[str, Callable[[ProviderClient], object]] = {
    "bind": bind,
    "unbind": lambda provider: provider.unbind(app_id="a", bind_id="1"),
    "page": lambda provider: provider.page(app_id="a", current=1, size=1),
    "pools": lambda provider: provider.pools(current=1, size=1),
}


@pytest.mark.parametrize("refused", CALLS)
def test_account_refusal_opens_the_circuit_of_the_call_that_met_it_only(refused: str) -> None:
    with Server(says(answer(status="-30", data=None))) as server:
        provider = client(server.url)
        CALLS[refused](provider)
        assert provider.circuits.open_calls() == {refused}


def test_circuit_that_opens_is_logged_once_with_its_call_and_status(caplog: pytest.LogCaptureFixture) -> None:
    with Server(says(answer(status="-30", data=None, reason="9188067701"))) as server:
        provider = client(server.url)
        for _ in range(3):
            CALLS["page"](provider)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["the circuit of the call page opens: status -30: API key disabled"]


@pytest.mark.parametrize("called", CALLS)
def test_definite_answer_closes_the_circuit_of_its_own_call_only(called: str) -> None:
    with Server(says(answer(status="-22", data=None))) as server:
        provider = client(server.url)
        for circuit in CALLS:
            getattr(provider.circuits, circuit).record(Refused(refusal=Refusal.ACCOUNT, status="-1", reason=""))
        CALLS[called](provider)
        assert provider.circuits.open_calls() == CALLS.keys() - {called}


OUTCOMES: list[tuple[Script, type[BindOutcome], str]] = [
    (says(answer()), BindSucceeded, "bind: made in "),
    (says(answer(status="-35", reason="9188067799 is bound")), Refused, "bind: refused -35 in "),
    (says(http(b"9188067701 9188067799")), Unknown, "bind: unknown in "),
    (resets(), Unknown, "bind: unknown in "),
]


@pytest.mark.parametrize(("script", "kind", "line"), OUTCOMES)
def test_no_phone_and_no_secret_is_logged_or_in_a_repr(
    script: Script, kind: type[BindOutcome], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), Server(script) as server:
        provider = client(server.url, wall=lambda: NOW)
        outcome = bind(provider)
    assert isinstance(outcome, kind)
    texts = caplog.text + repr(outcome) + repr(provider) + str(vars(provider.circuits.bind))
    sign = signature(api_key=KEY, api_secret=SECRET, timestamp=int(NOW))
    for secret in (KEY, SECRET, sign, "9188067701", "9188067799"):
        assert secret not in texts
    own_messages = [record.getMessage() for record in caplog.records if record.name.startswith("bindings")]
    assert len(own_messages) == 1
    assert own_messages[0].startswith(line)


def test_key_that_is_not_valid_in_a_header_is_not_sent_and_not_in_the_reason() -> None:
    with Server(says(answer())) as server:
        outcome = bind(client(server.url, api_key="key\r\nX: y"))
        assert outcome == NotSent(reason="prepare: InvalidHeader")
        assert server.requests == []


def test_importing_the_client_opens_no_connection() -> None:
    code = (
        "import socket; socket.socket.connect = None; socket.getaddrinfo = None; import bindings.provider.client"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
