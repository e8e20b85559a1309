"""The real client against real sockets: what each answer, and each lack of one, is taken for."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from bindings.domain.phone import Phone
from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import (
    BindSucceeded,
    ProviderBinding,
    ProviderPage,
    Refusal,
    Refused,
    UnbindNotFound,
    UnbindSucceeded,
)
from tests.provider.sockets import (
    ANSWERED_S,
    KEY,
    LIMIT_S,
    SECRET,
    SUCCESS,
    Server,
    answer,
    bind,
    client,
    drips,
    header,
    http,
    resets,
    says,
    stays_silent,
)
from tests.service.harness import wait_for

if TYPE_CHECKING:
    import socket

    from tests.provider.sockets import Script

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = json.dumps(SUCCESS).encode()
HTML = b"<html>Bad Gateway</html>"


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    script: Script
    kind: type
    reason: str = ""
    status: str | None = None
    refusal: Refusal | None = None


def success(name: str, reply: bytes) -> Case:
    return Case(name=name, script=says(reply), kind=BindSucceeded)


def refused(status: str, refusal: Refusal, *, http_status: int = 200) -> Case:
    script = says(answer(status=status, data=None, http_status=http_status))
    return Case(name=f"{status} under {http_status}", script=script, kind=Refused, status=status, refusal=refusal)


def unknown(name: str, script: Script | bytes, reason: str, *, status: str | None = None) -> Case:
    script = says(script) if isinstance(script, bytes) else script
    return Case(name=name, script=script, kind=Unknown, reason=reason, status=status)


def lacking(field: str) -> Case:
    data = {name: value for name, value in SUCCESS["data"].items() if name != field}
    return unknown(f"success without {field}", answer(data=data), f"without its data: {field}", status="0")


CASES = [
    success("the documented success", answer()),
    success("a success without a length", b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE),
    success("a success in chunks", CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE), WHOLE)),
    success("a success whose status is a number", answer(status=0)),
    success("a success after a 100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n" + answer()),
    success("a success after a 103 Early Hints", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer()),
    success("a success after several", b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 103 X\r\n\r\n" + answer()),
    refused("-1", Refusal.ACCOUNT),
    refused("-2", Refusal.ACCOUNT),
    refused("-16", Refusal.CLOCK),
    refused("-22", Refusal.REQUEST),
    refused("-29", Refusal.ACCOUNT),
    refused("-30", Refusal.ACCOUNT),
    refused("-31", Refusal.ACCOUNT),
    refused("-35", Refusal.IN_USE),
    refused("-41", Refusal.NO_NUMBER),
    refused("-22", Refusal.REQUEST, http_status=400),
    refused("-1", Refusal.ACCOUNT, http_status=401),
    refused("-31", Refusal.ACCOUNT, http_status=403),
    Case(
        name="-35 as a number",
        script=says(answer(status=-35)),
        kind=Refused,
        status="-35",
        refusal=Refusal.IN_USE,
    ),
    unknown("the anomaly", answer(status="-18", data=None), "system anomaly", status="-18"),
    unknown("a status of another call", answer(status="-24"), "does not exist", status="-24"),
    unknown("an unknown status", answer(status="-99"), "unknown status", status="-99"),
    unknown("success without data", answer(data=None), "data is not an object", status="0"),
    lacking("bindId"),
    lacking("pnsNumberA"),
    lacking("pnsNumberB"),
    unknown("200 with HTML", http(HTML), "HTTP 200 without an envelope"),
    unknown("200 with nothing", http(b""), "HTTP 200 without an envelope"),
    unknown("a doubled field", http(b'{"status":"0",' + WHOLE[1:]), "a field that occurs twice"),
    unknown(
        "a doubled field in its data",
        http(WHOLE.replace(b'"bindId"', b'"bindId": 7, "bindId"')),
        "data has a field that occurs twice",
        status="0",
    ),
    unknown(
        "bad UTF-8 in an id",
        http(WHOLE.replace(b"1002", b'"1002\xff"')),
        "bindId is not a short printable text",
        status="0",
    ),
    unknown("a success under 201", answer(http_status=201), "HTTP 201", status="0"),
    unknown("a success under 400", answer(http_status=400), "HTTP 400", status="0"),
    unknown("a refusal under 408", answer(http_status=408, status="-1"), "HTTP 408", status="-1"),
    unknown("a refusal under 429", answer(http_status=429, status="-22"), "HTTP 429", status="-22"),
    unknown("404 with HTML", http(HTML, status=404), "HTTP 404 without an envelope"),
    unknown("500 with an envelope", answer(http_status=500, status="-35"), "HTTP 500", status="-35"),
    unknown("502 with HTML", http(HTML, status=502), "HTTP 502 without an envelope"),
    unknown("101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP 101 without an envelope"),
    unknown("302", http(b"", status=302, headers="Location: /elsewhere\r\n"), "HTTP 302"),
    unknown("307", http(b"", status=307, headers="Location: /elsewhere\r\n"), "HTTP 307"),
    unknown("accepts and stays silent", stays_silent, "read: timed out"),
    unknown("drips a status line", drips(b"HTTP/1.1 200 "), "read: timed out"),
    unknown("drips headers", drips(b"HTTP/1.1 200 OK\r\nX-Slow: "), "read: timed out"),
    unknown("drips a body", drips(HEAD), "read: timed out"),
    unknown("drips a body without end", drips(b"HTTP/1.1 200 OK\r\n\r\n"), "read: timed out"),
    unknown("drips in chunks", drips(CHUNKED + b"fff\r\n"), "read: timed out"),
    unknown("closes without a word", b"", "read: closed without a reply"),
    unknown("resets after reading", resets(), "read: connection reset"),
    unknown("resets within the body", resets(HEAD + WHOLE), "read: connection reset"),
    unknown("cuts the body", HEAD + WHOLE, "read: reply cut short"),
    unknown("cuts a chunk", CHUNKED + b"fff\r\n" + WHOLE, "read: reply cut short"),
    unknown("cuts the headers", b"HTTP/1.1 200 OK\r\nContent-", "HTTP 200 without an envelope"),
    unknown("speaks no HTTP", b"\x00\x01\x02\r\n\r\n", "read: not HTTP"),
    unknown("sends a header without end", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99_999, "read: not HTTP"),
    unknown("sends a huge body", http(b" " * (4 * 1024 * 1024 + 1)), "read: reply too long"),
    unknown("sends JSON of great depth", http(b"[" * 200_000), "not JSON"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_response_to_a_bind_has_its_outcome_and_the_bind_is_sent_once(case: Case) -> None:
    limit_s = LIMIT_S if "timed out" in case.reason else ANSWERED_S
    with Server(case.script) as server:
        started_at = time.monotonic()
        outcome = bind(client(server.url, timeout_s=limit_s))
        wait_for(lambda: server.requests != [])
        assert [request.partition(b" ")[0] for request in server.requests] == [b"POST"]
    assert type(outcome) is case.kind
    assert getattr(outcome, "status", None) == case.status
    assert getattr(outcome, "refusal", None) is case.refusal
    assert case.reason in getattr(outcome, "reason", "")
    if isinstance(outcome, (BindSucceeded, Unknown)):
        assert outcome.sent is not None
        assert outcome.sent >= started_at


def test_bind_success_has_the_middle_numbers_and_the_times_of_the_call() -> None:
    with Server(says(answer())) as server:
        before = time.monotonic()
        outcome = bind(client(server.url))
        after = time.monotonic()
    assert isinstance(outcome, BindSucceeded)
    assert (outcome.bind_id, outcome.middle_number_a, outcome.middle_number_b) == (
        "1002",
        "9188061024",
        "9188061024",
    )
    assert before < outcome.sent < outcome.answered < after


def test_bind_success_with_middle_numbers_that_do_not_fit_the_mode_is_a_success() -> None:
    data = SUCCESS["data"] | {"pnsNumberB": "9188061025"}
    with Server(says(answer(data=data))) as server:
        outcome = bind(client(server.url))
    assert isinstance(outcome, BindSucceeded)
    assert (outcome.middle_number_a, outcome.middle_number_b) == ("9188061024", "9188061025")


def test_refusal_has_the_providers_text_with_the_phone_masked() -> None:
    with Server(says(answer(status="-35", reason="9188067701 has an AXB binding"))) as server:
        outcome = bind(client(server.url))
    assert isinstance(outcome, Refused)
    assert outcome.reason == "91******01 has an AXB binding"


def test_unbind_with_status_0_succeeds() -> None:
    with Server(says(answer(data=None))) as server:
        assert client(server.url).unbind(app_id="4luaKsL2", bind_id="1002") == UnbindSucceeded()
        (request,) = server.requests
    assert request.startswith(b"POST /v3/number/pns/unbind HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"bindId":"1002","appId":"4luaKsL2"}')


def test_unbind_of_a_missing_binding_is_not_found() -> None:
    with Server(says(answer(status="-24", data=None))) as server:
        assert client(server.url).unbind(app_id="a", bind_id="1") == UnbindNotFound(status="-24")


def test_not_found_under_another_http_status_is_unknown() -> None:
    with Server(says(answer(status="-24", data=None, http_status=403))) as server:
        assert isinstance(client(server.url).unbind(app_id="a", bind_id="1"), Unknown)


def test_refused_and_unanswered_unbinds_have_different_outcomes() -> None:
    with Server(says(answer(status="-1", data=None))) as server:
        assert isinstance(client(server.url).unbind(app_id="a", bind_id="1"), Refused)
    with Server(says(b"")) as server:
        assert isinstance(client(server.url).unbind(app_id="a", bind_id="1"), Unknown)
    assert isinstance(client(server.url).unbind(app_id="a", bind_id="1"), NotSent)


ROW = {
    "bindId": 1002,
    "phoneA": "9188067701",
    "phoneB": "9188067799",
    "pnsNumberA": "9188061024",
    "pnsNumberB": "9188061025",
    "expireTime": "2023-10-22 09:00:00",
}


def test_page_is_parsed_with_times_in_utc() -> None:
    with Server(says(answer(data={"total": 7, "records": [ROW]}))) as server:
        outcome = client(server.url).page(app_id="4luaKsL2", current=1, size=100)
        (request,) = server.requests
    assert request.startswith(b"POST /v3/number/pns/queryBindPage HTTP/1.1\r\n")
    assert request.endswith(b'{"current":1,"size":100,"params":{"appId":"4luaKsL2"}}')
    row = ProviderBinding(
        bind_id="1002",
        phone_a=Phone("9188067701"),
        phone_b=Phone("9188067799"),
        middle_number_a="9188061024",
        middle_number_b="9188061025",
        ends_at=datetime(2023, 10, 22, 1, tzinfo=UTC),
    )
    assert outcome == ProviderPage(total=7, rows=(row,))


def test_page_with_a_malformed_row_keeps_its_other_rows() -> None:
    with Server(says(answer(data={"total": 2, "records": [ROW, ROW | {"phoneB": None}]}))) as server:
        outcome = client(server.url).page(app_id="a", current=1, size=10)
    assert isinstance(outcome, ProviderPage)
    assert (len(outcome.rows), [row.problem for row in outcome.odd_rows]) == (
        1,
        ["phoneB is missing or not a text"],
    )


def test_refused_and_unanswered_pages_have_different_outcomes() -> None:
    with Server(says(answer(status="-30", data=None))) as server:
        assert isinstance(client(server.url).page(app_id="a", current=1, size=10), Refused)
    with Server(says(b"")) as server:
        assert isinstance(client(server.url).page(app_id="a", current=1, size=10), Unknown)
    assert isinstance(client(server.url).page(app_id="a", current=1, size=10), NotSent)


def row_of(bind_id: int, *, padding: int = 0) -> dict[str, object]:
    data = {"bindId": bind_id, "phoneA": "9188067701", "phoneB": "9188067799", "expireTime": "2030-01-01 00:00:00"}
    return data | {"pnsNumberA": "9188061024", "pnsNumberB": "9188061024", "more": "x" * padding}


def test_reply_that_is_longer_than_any_bind_s_is_not_parsed() -> None:
    fields = {f"k{number}": number for number in range(300_000)}
    with Server(says(answer(data=fields))) as server:
        assert bind(client(server.url)).reason == "read: reply too long"  # type: ignore[union-attr]


@pytest.mark.parametrize(("padding", "accepted"), [(6_000, True), (10_000, False)])
def test_list_may_be_as_long_as_its_rows_need(padding: int, *, accepted: bool) -> None:
    rows = [row_of(number, padding=padding) for number in range(1, 101)]
    with Server(says(answer(data={"records": rows, "total": 100}))) as server:
        page = client(server.url).page(app_id=None, current=1, size=100)
    assert isinstance(page, ProviderPage) == accepted
    if isinstance(page, ProviderPage):
        assert len(page.rows) == 100


@pytest.mark.parametrize("http_status", [200, 500])
@pytest.mark.parametrize("status", ["-22", "-99"])
def test_no_outcome_repeats_a_phone_or_a_secret_of_the_call(http_status: int, status: str) -> None:
    def echo(connection: socket.socket, server: Server) -> None:
        words = " ".join((KEY, SECRET, header(server.requests[0], "Sign") or "", "+91 880-677-01"))
        connection.sendall(answer(status=status, reason=words, data=None, http_status=http_status))

    with Server(echo) as server:
        outcome = repr(bind(client(server.url)))
        signature = header(server.requests[0], "Sign") or ""
    assert [word for word in (KEY, SECRET, signature, "880-677", "91880677") if word in outcome] == []
