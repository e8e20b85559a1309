"""R3 and R4: every failure of the provider during a bind, with real time limits; and errors of its clock.

A bind that is not answered within its limit is in doubt, after one POST. A scan adopts it if the provider made it,
and proves it absent if not. A request that was never sent fails and holds nothing.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import State
from bindings.errors import BindingsError, Busy, OutcomeUnknown, ProviderUnreachable
from bindings.jobs.registry import EXPIRE
from bindings.jobs.runner import JobRunner
from bindings.provider.simulator import Fault, fault
from tests.faults.clock import shift_server
from tests.faults.test_kill import DATABASES
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from tests.faults.harness import Experiment, FaultHarness

pytestmark = pytest.mark.processes

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
LIMIT_S = 1.5
SUCCEEDED = {
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
NOT_SUCCEEDED = ("reset_before", "anomaly_before", "bad_gateway", "redirect")


def scripted(kind: str, pause_s: float | None) -> Fault:
    return fault(kind, times=1, on="bind", seconds=pause_s)


def bind_in_doubt(experiment: Experiment) -> str:
    """Send a bind that ends in doubt; return its id."""
    with experiment.service() as service:
        service.bind(phone_a=C, phone_b=D, pool_number="90", expire_s=5_000, mode="AXXB")  # a witness
    with experiment.service(provider_timeout_s=LIMIT_S) as service:
        with pytest.raises(OutcomeUnknown) as unknown:
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=3_000, mode="AXB")
        binding_id = unknown.value.binding_id or ""
        assert service.get(binding_id).state is State.IN_DOUBT
        with pytest.raises(BindingsError):
            service.bind(phone_a=B, phone_b=A, pool_number="92", expire_s=60, mode="AXB")
    assert experiment.simulator.counts.received["bind"] == 2
    return binding_id


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", SUCCEEDED)
def test_R3_bind_that_succeeded_without_a_clear_response_is_adopted_by_a_scan(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        experiment.simulator.script(scripted("delay:0", None))  # consumed by the witness
        experiment.simulator.script(scripted(name, SUCCEEDED[name]))
        binding_id = bind_in_doubt(experiment)
        if name == "delay_before":
            experiment.clock.advance(10)
            wait_for(lambda: len(experiment.simulator.ledger) == 2)
        experiment.run("run_job", job="reconcile")
        with experiment.service() as service:
            adopted = service.get(binding_id)
        assert (adopted.state, adopted.reason) == (State.ACTIVE, "adopted")
        assert experiment.simulator.counts.received["bind"] == 2
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", NOT_SUCCEEDED)
def test_R3_bind_that_failed_without_a_clear_response_is_proved_absent_when_its_timestamp_is_too_old(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        experiment.simulator.script(scripted("delay:0", None))
        experiment.simulator.script(scripted(name, None))
        binding_id = bind_in_doubt(experiment)
        experiment.run("run_job", job="reconcile")
        with experiment.service() as service:
            assert service.get(binding_id).state is State.IN_DOUBT, "its timestamp may still be accepted"
        experiment.clock.advance(320)
        experiment.run("run_job", job="reconcile")
        with experiment.service() as service:
            absent = service.get(binding_id)
        assert (absent.state, absent.reason) == (State.FAILED, "absent")
        experiment.run("run_binds", requests=[request("93")])
        assert experiment.simulator.counts.received["bind"] == 3, "the phones are free again"
        experiment.assert_recovery()


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
@pytest.mark.parametrize("failure", ["refused connection", "no such name"])
def test_R4_request_never_sent_fails_and_frees_the_phones(
    fault_harness: FaultHarness, kind: str, failure: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}" if failure == "refused connection" else "http://provider.invalid"
    with fault_harness.experiment(kind) as experiment:
        with experiment.service(provider_url=url) as service, pytest.raises(ProviderUnreachable) as failed:
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        with experiment.service() as service:
            assert service.get(failed.value.binding_id or "").reason == "never_sent"
            assert service.bind(phone_a=A, phone_b=B, pool_number="92", expire_s=600, mode="AXB").state == "active"
        experiment.assert_recovery()


@pytest.mark.parametrize("offset_s", [45.0, -45.0])
def test_D1_provider_clock_45_s_off_is_warned_about_and_binds_succeed(
    fault_harness: FaultHarness, offset_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    with fault_harness.experiment("sqlite") as experiment:
        experiment.simulator.change(clock_offset_s=offset_s)
        with experiment.service() as service, caplog.at_level(logging.WARNING):
            service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
            service.bind(phone_a=C, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        assert "45 s apart" in caplog.text
        assert experiment.simulator.counts.decided["bind"] == {"0": 2}


@pytest.mark.parametrize("offset_s", [330.0, -330.0])
def test_D1_provider_clock_that_refuses_timestamps_stops_binds(
    fault_harness: FaultHarness, offset_s: float
) -> None:
    with fault_harness.experiment("sqlite") as experiment:
        experiment.simulator.change(clock_offset_s=offset_s)
        with experiment.service() as service:
            service.reconcile()  # is refused with -16
            with pytest.raises(Busy):
                service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
            assert "bind" not in experiment.simulator.counts.received
            assert service.search().data == ()
            experiment.simulator.change(clock_offset_s=0.0)
            service.reconcile()
            assert service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB").state == "active"


def step(experiment: Experiment, by_s: float) -> None:
    """Shift the clock of the PostgreSQL server only."""
    shift_server(experiment.url, by_s)


@pytest.mark.postgres
@pytest.mark.parametrize("by_s", [3_600.0, -3_600.0])
@pytest.mark.parametrize("warmed", ["a process that has bound before", "a process that has just new_service"])
def test_D3_database_clock_step_stops_binds_before_a_phone_is_lent_twice(
    fault_harness: FaultHarness, by_s: float, warmed: str
) -> None:
    with fault_harness.experiment("postgresql") as experiment, experiment.service() as service:
        service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        step(experiment, by_s)
        if warmed == "a process that has bound before":
            with pytest.raises(BindingsError):
                service.bind(phone_a=A, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        else:
            with experiment.service() as new_service, pytest.raises(BindingsError):
                new_service.bind(phone_a=A, phone_b=D, pool_number="92", expire_s=600, mode="AXB")
        assert experiment.simulator.counts.received["bind"] == 1, (
            "the phone is held at the provider: no request is sent"
        )


@pytest.mark.postgres
@pytest.mark.parametrize(
    "process", ["a process that was there before", "a process that starts under the wrong clock"]
)
def test_D3_scheduler_ends_no_live_binding_while_the_database_clock_is_an_hour_ahead(
    fault_harness: FaultHarness, process: str
) -> None:
    with fault_harness.experiment("postgresql") as experiment, experiment.service() as service:
        binding = service.bind(phone_a=A, phone_b=B, pool_number="91", expire_s=600, mode="AXB")
        step(experiment, 3_600.0)
        if process == "a process that was there before":
            with pytest.raises(Busy):
                JobRunner(service.runtime).run(EXPIRE)
        else:
            with experiment.service() as new_service, pytest.raises(Busy):
                JobRunner(new_service.runtime).run(EXPIRE)
        step(experiment, 0.0)
        assert service.get(binding.id).state is State.ACTIVE
