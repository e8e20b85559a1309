"""R3 and R4: whatever the provider does with a bind, on real time limits; and what its clock does.

In doubt within the limit and a second; one POST; adopted by a scan where it was made, proved absent where it was
not. What was never sent fails at once and holds nothing.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State
from bindings.errors import BindingsError, Busy, OutcomeUnknown, ProviderUnreachable
from bindings.jobs.registry import EXPIRE
from bindings.jobs.runner import JobRunner
from bindings.provider.simulator import Fault, fault
from tests.faults.clock import shift_server
from tests.faults.test_kill import DATABASES

if TYPE_CHECKING:
    from tests.faults.harness import Arena, Lab

pytestmark = pytest.mark.processes

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
LIMIT_S = 1.5
MADE = {
    "lost_reply": None,
    "reset_after": None,
    "delay": 3.0,
    "delay_before": 3.0,
    "drip_headers": 0.1,
    "drip_body": 0.1,
    "anomaly_after": None,
    "bad_gateway_after": None,
    "garbage": None,
    "cut_body": None,
    "truncated": None,
}
NOT_MADE = ("reset_before", "anomaly_before", "bad_gateway", "redirect")


def scripted(kind: str, pause_s: float | None) -> Fault:
    return fault(kind, times=1, on="bind", seconds=pause_s)


def bind_in_doubt(arena: Arena) -> str:
    """A bind that ends without a clear answer; its id."""
    with arena.service(provider_timeout_s=LIMIT_S) as service:
        service.bind(phone_a=C, phone_b=D, pool_number="90", expire_s=5_000, mode="AXXB")  # a witness
    with arena.service(provider_timeout_s=LIMIT_S) as service:
        with pytest.raises(OutcomeUnknown) as unknown:
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=3_000, mode="AXB")
        binding_id = unknown.value.binding_id or ""
        assert service.get(binding_id).state is State.IN_DOUBT
        with pytest.raises(BindingsError):
            service.bind(phone_a=B, phone_b=A, pool_number="92", expire_s=60, mode="AXB")
    assert arena.simulator.counts.received["bind"] == 2
    return binding_id


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", MADE)
def test_R3_a_bind_that_was_made_without_a_clear_answer_is_adopted_by_a_scan(
    lab: Lab, kind: str, name: str
) -> None:
    with lab.arena(kind) as arena:
        arena.simulator.script(scripted("delay:0", None))  # spent by the witness
        arena.simulator.script(scripted(name, MADE[name]))
        binding_id = bind_in_doubt(arena)
        if name == "delay_before":
            arena.clock.advance(10)
            wait_for_entries(arena, 2)
        arena.run("run_pass", **{"pass": "reconcile"})
        with arena.service() as service:
            adopted = service.get(binding_id)
        assert (adopted.state, adopted.reason) == (State.ACTIVE, "adopted")
        assert arena.simulator.counts.received["bind"] == 2
        arena.aftermath()


@pytest.mark.alone
@pytest.mark.parametrize("name", [*MADE, *NOT_MADE])
def test_R3_nothing_keeps_a_caller_longer_than_the_limit_and_a_second(lab: Lab, name: str) -> None:
    limit_s = 0.4
    with lab.arena("sqlite") as arena, arena.service(provider_timeout_s=limit_s) as service:
        arena.simulator.script(scripted(name, MADE.get(name)))
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=3_000, mode="AXB")
        assert time.monotonic() - began < limit_s + 1


def wait_for_entries(arena: Arena, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(arena.simulator.ledger) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", NOT_MADE)
def test_R3_a_bind_that_was_not_made_is_proved_absent_once_its_stamp_is_too_old(
    lab: Lab, kind: str, name: str
) -> None:
    with lab.arena(kind) as arena:
        arena.simulator.script(scripted("delay:0", None))
        arena.simulator.script(scripted(name, None))
        binding_id = bind_in_doubt(arena)
        arena.run("run_pass", **{"pass": "reconcile"})
        with arena.service() as service:
            assert service.get(binding_id).state is State.IN_DOUBT, "its stamp may still be accepted"
        arena.clock.advance(320)
        arena.run("run_pass", **{"pass": "reconcile"})
        with arena.service() as service:
            proved = service.get(binding_id)
        assert (proved.state, proved.reason) == (State.FAILED, "absent")
        arena.run("bind_one", asked=[request("93")])
        assert arena.simulator.counts.received["bind"] == 3, "the phones are free again"
        arena.aftermath()


def request(tag: str) -> dict[str, object]:
    return {
        "phone_a": A,
        "phone_b": B,
        "pool_number": tag,
        "expire_s": 60,
        "mode": "AXB",
        "idempotency_key": None,
    }


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("where", ["refused connection", "no such name"])
def test_R4_what_was_never_sent_fails_within_five_seconds_and_frees_the_phones(
    lab: Lab, kind: str, where: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}" if where == "refused connection" else "http://provider.invalid"
    with lab.arena(kind) as arena:
        began = time.monotonic()
        with arena.service(provider_url=url) as service, pytest.raises(ProviderUnreachable) as failed:
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        assert time.monotonic() - began < 5
        with arena.service() as service:
            assert service.get(failed.value.binding_id or "").reason == "never_sent"
            assert service.bind(phone_a=A, phone_b=B, pool_number="92", expire_s=600, mode="AXB").state == "active"
        arena.aftermath()


@pytest.mark.parametrize("offset_s", [45.0, -45.0])
def test_D1_a_provider_whose_clock_is_45_s_off_is_warned_of_and_served(
    lab: Lab, offset_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    with lab.arena("sqlite") as arena:
        arena.simulator.change(clock_offset_s=offset_s)
        with arena.service() as service, caplog.at_level(logging.WARNING):
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
            service.bind(phone_a=C, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        assert "45 s apart" in caplog.text
        assert arena.simulator.counts.decided["bind"] == {"0": 2}


@pytest.mark.parametrize("offset_s", [90.0, -90.0])
def test_D1_a_provider_whose_clock_is_90_s_off_is_sent_nothing_once_that_is_known(
    lab: Lab, offset_s: float
) -> None:
    with lab.arena("sqlite") as arena:
        arena.simulator.change(clock_offset_s=offset_s)
        with arena.service() as service:
            service.reconcile()
            with pytest.raises(Busy):
                service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
            assert "bind" not in arena.simulator.counts.received
            assert service.search().data == ()
            arena.simulator.change(clock_offset_s=0.0)
            service.reconcile()
            assert service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB").state == "active"


def step(arena: Arena, by_s: float) -> None:
    """Let the PostgreSQL server's clock jump, alone."""
    shift_server(arena.url, by_s)


@pytest.mark.postgres
@pytest.mark.parametrize("by_s", [3_600.0, -3_600.0])
@pytest.mark.parametrize("warmed", ["a process that has bound before", "a process that has just started"])
def test_D3_a_database_clock_that_steps_stops_binds_before_a_phone_is_given_twice(
    lab: Lab, by_s: float, warmed: str
) -> None:
    with lab.arena("postgresql") as arena, arena.service() as service:
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        step(arena, by_s)
        if warmed == "a process that has bound before":
            with pytest.raises(BindingsError):
                service.bind(phone_a=A, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        else:
            with arena.service() as started, pytest.raises(BindingsError):
                started.bind(phone_a=A, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        assert arena.simulator.counts.received["bind"] == 1, "the phone is held at the provider: nothing is sent"


@pytest.mark.postgres
@pytest.mark.parametrize("who", ["a process that was there before", "a process that starts under the wrong clock"])
def test_D3_the_timer_ends_no_live_binding_while_the_database_clock_is_an_hour_ahead(lab: Lab, who: str) -> None:
    with lab.arena("postgresql") as arena, arena.service() as service:
        made = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        step(arena, 3_600.0)
        if who == "a process that was there before":
            with pytest.raises(Busy):
                JobRunner(service.runtime).run(EXPIRE)
        else:
            with arena.service() as started, pytest.raises(Busy):
                JobRunner(started.runtime).run(EXPIRE)
        step(arena, 0.0)
        assert service.get(made.id).state is State.ACTIVE
