"""A scripted fault strikes the calls that it was scripted for, and says truly whether the provider acted."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bindings.provider import wire
from bindings.provider.simulator import Call, Fault, FaultKind, Simulator, parse_fault
from bindings.provider.simulator.replies import REDIRECT_TARGET
from tests.provider.simulator_calls import (
    A,
    B,
    C,
    Clock,
    D,
    bind,
    bind_body,
    connect,
    page,
    prefixed,
    signed,
    unbind,
)
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ACTING = (
    "lost_reply",
    "reset_after",
    "delay",
    "delay_before",
    "drip_headers",
    "drip_body",
    "anomaly_after",
    "bad_gateway_after",
    "garbage",
    "cut_body",
    "truncated",
    "wrong_total",
)
IDLE = ("reset_before", "anomaly_before", "bad_gateway", "redirect", "rate_limit", "refuse:-35")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=Clock()) as running:
        yield running


def attempt(simulator: Simulator) -> str:
    """Bind, and say what the caller got to see."""
    try:
        answer = bind(simulator, A, B)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return str(answer.code) if answer.code != 200 else answer.body.decode()[:40]


def test_every_fault_kind_is_tested_here() -> None:
    assert {kind.partition(":")[0] for kind in (*ACTING, *IDLE)} == set(FaultKind)


@pytest.mark.parametrize("kind", ACTING)
def test_fault_kind_that_acts_changes_the_ledger(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1, seconds=0)
    attempt(simulator)
    assert [entry.bind_id for entry in simulator.ledger] == [1002]
    (request,) = simulator.requests
    assert (request.decided, request.fault) == ("0", kind)
    assert simulator.counts.faults == {kind: 1}


@pytest.mark.parametrize("kind", IDLE)
def test_fault_kind_that_does_not_act_leaves_the_ledger_empty(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1)
    attempt(simulator)
    assert len(simulator.ledger) == 0
    assert simulator.requests[0].decided is None
    assert attempt(simulator).startswith('{"status":"0"')


def test_lost_reply_closes_the_connection_without_a_byte(simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    host, port = simulator.url.removeprefix("http://").split(":")
    body = bind_body(A, B)
    fields = signed(simulator.now()) | {"Host": host, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(f"POST {prefixed(wire.BIND_PATH)} HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert raw.recv(1_024) == b""
    assert len(simulator.ledger) == 1


@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
def test_reset_is_a_tcp_reset(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1)
    assert attempt(simulator) == "ConnectionResetError"


@pytest.mark.parametrize("kind", ["anomaly_before", "anomaly_after"])
def test_anomaly_is_answered_with_and_without_an_action(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1)
    answer = bind(simulator, A, B)
    assert (answer.code, answer.status, answer.data) == (200, "-18", None)
    assert simulator.counts.answered == {"bind": {"-18": 1}}


@pytest.mark.parametrize("kind", ["bad_gateway", "bad_gateway_after"])
def test_bad_gateway_is_a_502_with_html(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1)
    answer = bind(simulator, A, B)
    assert (answer.code, answer.headers["Content-Type"]) == (502, "text/html")


def test_garbage_is_a_200_that_is_not_json(simulator: Simulator) -> None:
    simulator.script("garbage", times=1)
    answer = bind(simulator, A, B)
    assert answer.code == 200
    assert answer.body.startswith(b"<html>")


def test_cut_body_ends_before_its_content_length(simulator: Simulator) -> None:
    simulator.script("cut_body", times=1)
    with pytest.raises(http.client.IncompleteRead):
        bind(simulator, A, B)


def test_redirect_leads_to_a_path_where_requests_are_recorded(simulator: Simulator) -> None:
    simulator.script("redirect", times=1)
    answer = bind(simulator, A, B)
    assert (answer.code, answer.headers["Location"]) == (302, REDIRECT_TARGET)


def test_rate_limit_names_the_time_to_wait(simulator: Simulator) -> None:
    simulator.script("429:2.5", times=1)
    answer = bind(simulator, A, B)
    assert (answer.code, answer.headers["Retry-After"]) == (429, "3")


def test_wrong_total_changes_the_total_of_a_page_and_nothing_else(simulator: Simulator) -> None:
    simulator.script("wrong_total", times=2)
    assert bind(simulator, A, B).status == "0"
    wrong, right = page(simulator).data, page(simulator).data
    assert (wrong["total"], right["total"]) == (1_000_000, 1)
    assert wrong["records"] == right["records"]


def test_truncated_answer_has_its_status_and_no_data(simulator: Simulator) -> None:
    simulator.script("truncated", times=2)
    answer = bind(simulator, A, B)
    assert (answer.status, answer.data) == ("0", None)
    assert bind(simulator, A, B).status == "-35"


@pytest.mark.parametrize("status", ["-41", "-99", "-1"])
def test_refuse_answers_with_any_status(simulator: Simulator, status: str) -> None:
    simulator.script(f"refuse:{status}", times=1)
    assert bind(simulator, A, B).status == status


@pytest.mark.parametrize("kind", ["delay", "delay_before"])
def test_delayed_answer_arrives_late_and_complete(simulator: Simulator, kind: str) -> None:
    simulator.script(kind, times=1, seconds=0.2)
    started_at = time.monotonic()
    assert bind(simulator, A, B).status == "0"
    assert time.monotonic() - started_at >= 0.2


@pytest.mark.parametrize(("kind", "acted"), [("delay", 1), ("delay_before", 0)])
def test_timeout_of_the_caller_during_a_delay_does_not_change_the_ledger(
    simulator: Simulator, kind: str, acted: int
) -> None:
    simulator.script(kind, times=1, seconds=30)
    with pytest.raises(TimeoutError):
        bind(simulator, A, B, timeout=0.2)
    wait_for(lambda: simulator.counts.received == {"bind": 1} and len(simulator.ledger) == acted)


def test_dripping_outlasts_a_timeout_of_each_read(simulator: Simulator) -> None:
    for kind in ("drip_headers", "drip_body"):
        simulator.script(kind, times=1, seconds=0.02)
    for pair in ((A, B), (C, D)):
        started_at = time.monotonic()
        assert bind(simulator, *pair, timeout=1.0).status == "0"
        assert time.monotonic() - started_at > 1.0


# Which calls get a fault.


def test_fault_is_injected_only_into_its_call(simulator: Simulator) -> None:
    simulator.script("anomaly_before", rate=1, on="page")
    bind_id = bind(simulator, A, B).data[wire.BIND_ID]
    assert (page(simulator).status, unbind(simulator, bind_id).status) == ("-18", "0")


def test_fault_with_a_count_is_injected_that_many_times(simulator: Simulator) -> None:
    simulator.script("refuse:-41", times=2)
    assert [bind(simulator, A, B).status for _ in range(3)] == ["-41", "-41", "0"]


def test_rate_is_about_met_and_repeats_with_the_same_seed() -> None:
    runs: list[list[str]] = []
    for seed in (1, 1, 2):
        with Simulator(seed=seed) as simulator:
            simulator.script("refuse:-41", rate=0.3)
            runs.append([page(simulator).status for _ in range(100)])
    assert runs[0] == runs[1] != runs[2]
    assert 15 <= runs[0].count("-41") <= 45


def test_cleared_faults_are_not_injected(simulator: Simulator) -> None:
    simulator.script("lost_reply", rate=1)
    simulator.clear_faults()
    assert bind(simulator, A, B).status == "0"


# How faults are written.


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lost_reply=0.1", Fault(kind=FaultKind.LOST_REPLY, rate=0.1)),
        ("Lost-Reply=1", Fault(kind=FaultKind.LOST_REPLY, rate=1.0)),
        ("502=0.5", Fault(kind=FaultKind.BAD_GATEWAY, rate=0.5)),
        ("502-after=0.5", Fault(kind=FaultKind.BAD_GATEWAY_AFTER, rate=0.5)),
        ("drip=0", Fault(kind=FaultKind.DRIP_BODY, rate=0.0)),
        ("-18=1", Fault(kind=FaultKind.ANOMALY_AFTER, rate=1.0)),
        ("-18-before=1", Fault(kind=FaultKind.ANOMALY_BEFORE, rate=1.0)),
        ("-18-after=1", Fault(kind=FaultKind.ANOMALY_AFTER, rate=1.0)),
        ("refuse:-35@bind=1", Fault(kind=FaultKind.REFUSE, status="-35", on=Call.BIND, rate=1.0)),
        ("delay:2.5=0.2", Fault(kind=FaultKind.DELAY, seconds=2.5, rate=0.2)),
    ],
)
def test_fault_is_parsed_from_the_command_line(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize("text", ["", "lost_reply", "lost=0.1", "lost_reply=often", "delay:long=1"])
def test_unknown_fault_is_refused_with_the_list_of_kinds(text: str) -> None:
    with pytest.raises(ValueError, match=r"the kinds are lost_reply, .*, refuse"):
        parse_fault(text)


@pytest.mark.parametrize(
    "text", ["lost_reply=1.1", "lost_reply=nan", "refuse=1", "delay:-1=1", "lost_reply@dial=1"]
)
def test_invalid_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|status|seconds|calls"):
        parse_fault(text)


def test_fault_needs_either_a_rate_or_a_count(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="either a rate or a number of times"):
        simulator.script("lost_reply")
    with pytest.raises(ValueError, match="at least 1"):
        simulator.script("lost_reply", times=0)


# Starting and stopping.


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("simulator")]


def test_stop_does_not_wait_for_open_connections_and_leaves_no_thread() -> None:
    simulator = Simulator().start()
    idle = connect(simulator)
    idle.connect()
    simulator.script("drip_body", times=1, seconds=60)
    simulator.script("delay_before", times=1, seconds=60)
    callers = [threading.Thread(target=attempt, args=(simulator,)) for _ in range(2)]
    for caller in callers:
        caller.start()
    wait_for(lambda: len(simulator.requests) == 2)
    simulator.stop()
    for caller in callers:
        caller.join(300)
    idle.close()
    assert our_threads() == []
    assert len(simulator.ledger) == 1  # the call that was still waiting is not carried out


def test_stopped_simulator_restarts_on_its_port_with_its_ledger(simulator: Simulator) -> None:
    bind(simulator, A, B)
    url = simulator.url
    simulator.stop()
    simulator.stop()
    assert attempt(simulator) == "ConnectionRefusedError"
    simulator.start()
    assert simulator.url == url
    assert bind(simulator, A, B).status == "-35"


def test_url_needs_a_start_and_a_second_start_is_refused(simulator: Simulator) -> None:
    with pytest.raises(RuntimeError):
        _ = Simulator().url
    with pytest.raises(RuntimeError):
        simulator.start()
