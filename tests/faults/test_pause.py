"""R1: a process is stopped at a fail point, other processes continue, then the process is resumed.

Time passes while it is stopped, on every clock that it reads: SIGSTOP does not stop CLOCK_MONOTONIC. What it does
after that must not break what the other processes did meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.databases import MOSTLY_POSTGRES

if TYPE_CHECKING:
    from typing import Any

    from tests.faults.harness import Experiment, FaultHarness

pytestmark = pytest.mark.processes

A, B = "9188067701", "9188067799"
LIFE_S = 600
PAUSES_S = {"within the window": 1.0, "past send_by": 8.0, "past the tolerance": 320.0, "past its life": 1_200.0}
OPEN_TRANSACTION = {"bind.reserve_in_transaction", "bind.settle_in_transaction"}
POINTS = (
    *("bind.before_reserve", "bind.after_reserve", "bind.before_send", "bind.after_answer", "bind.after_settle"),
)
UNBIND_POINTS = ("unbind.after_request", "unbind.after_answer", "unbind.after_settle")
JOB_POINTS = (
    ("expire_due", "expire.after_batch"),
    ("recover", "recover.before"),
    ("recover", "recover.before_unbinds"),
    ("reconcile", "reconcile.after_first_scan"),
    ("reconcile", "reconcile.after_adopt"),
    ("reconcile", "reconcile.after_second_scan"),
)


def bind_request(
    tag: str, *, expire_s: int = LIFE_S, key: str | None = None, swapped: bool = False
) -> dict[str, Any]:
    """Return one bind request of the two phones."""
    phones = (B, A) if swapped else (A, B)
    return {
        "phone_a": phones[0],
        "phone_b": phones[1],
        "pool_number": tag,
        "expire_s": expire_s,
        "mode": "AXB",
        "idempotency_key": key,
    }


def posts(experiment: Experiment, tag: str) -> list[str | None]:
    """Return what the provider decided about each POST of one intent."""
    decisions = [r.decided for r in experiment.simulator.requests if r.call == "bind" and f'"{tag}"' in r.body]
    assert len(decisions) <= 1
    return decisions


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
@pytest.mark.parametrize("pause", PAUSES_S)
@pytest.mark.parametrize("name", POINTS)
def test_bind_stopped_while_other_processes_continue_is_sound_when_resumed(
    fault_harness: FaultHarness, kind: str, name: str, pause: str
) -> None:
    with fault_harness.experiment(kind, provider_timeout_s=10.0) as experiment:
        slow = experiment.start("run_binds", requests=[bind_request("91")], hook=(name, 1, "STOP"))
        assert experiment.wait_until_stopped(slow)
        experiment.clock.advance(PAUSES_S[pause])
        experiment.run("run_binds", requests=[bind_request("92", swapped=True)])
        experiment.run("run_job", job="reconcile")
        experiment.run("run_job", job="expire_due")
        experiment.resume(slow)
        experiment.wait(slow)
        sent = posts(experiment, "91")
        if name == "bind.after_reserve" and pause != "within the window":
            assert sent == [], "no request is sent after send_by"
        if name == "bind.before_send" and PAUSES_S[pause] > 300:
            assert sent == [], "the check passed in time, but the call's own deadline is over"
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
def test_timestamp_from_before_a_pause_is_refused_by_the_provider(fault_harness: FaultHarness, kind: str) -> None:
    """The call's own deadline is longer than the pause here: only the timestamp prevents the bind."""
    with fault_harness.experiment(
        kind, simulated={"timestamp_tolerance_s": 2.0}, provider_timeout_s=60.0
    ) as experiment:
        slow = experiment.start("run_binds", requests=[bind_request("91")], hook=("bind.before_send", 1, "STOP"))
        assert experiment.wait_until_stopped(slow)
        experiment.clock.advance(20)
        experiment.resume(slow)
        experiment.wait(slow)
        assert posts(experiment, "91") == ["-16"]
        assert len(experiment.simulator.ledger) == 0
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
@pytest.mark.parametrize("name", sorted(OPEN_TRANSACTION))
def test_bind_stopped_inside_a_transaction_makes_other_binds_wait_and_not_fail(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        slow = experiment.start("run_binds", requests=[bind_request("91", key="k")], hook=(name, 1, "STOP"))
        assert experiment.wait_until_stopped(slow)
        other = experiment.start("run_binds", requests=[bind_request("92")])
        repeated = experiment.start("run_binds", requests=[bind_request("91", key="k")])
        experiment.resume(slow)
        for process in (slow, other, repeated):
            experiment.wait(process)
        assert len(experiment.simulator.ledger) == 1
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
@pytest.mark.parametrize("pause", ["within the window", "past its life"])
@pytest.mark.parametrize("name", UNBIND_POINTS)
def test_unbind_stopped_while_other_processes_continue_is_sound_when_resumed(
    fault_harness: FaultHarness, kind: str, name: str, pause: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        experiment.run("run_binds", requests=[bind_request("91")])
        bound = next(line for line in experiment.records() if line["kind"] == "bound")
        slow = experiment.start("run_unbind", id=bound["id"], hook=(name, 1, "STOP"))
        assert experiment.wait_until_stopped(slow)
        experiment.clock.advance(PAUSES_S[pause])
        experiment.run("run_unbind", id=bound["id"])
        experiment.run("run_job", job="expire_due")
        experiment.run("run_job", job="reconcile")
        experiment.clock.advance(experiment.rules.guard_s + 1)  # the second unbind may have met -24
        experiment.run("run_binds", requests=[bind_request("92")])
        experiment.resume(slow)
        experiment.wait(slow)
        assert len(experiment.simulator.ledger) == 2, "the phones were free and were bound again"
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", MOSTLY_POSTGRES)
@pytest.mark.parametrize("pause", ["within the window", "past its life"])
@pytest.mark.parametrize(("job", "name"), JOB_POINTS)
def test_job_stopped_while_other_processes_continue_is_sound_when_resumed(
    fault_harness: FaultHarness, kind: str, job: str, name: str, pause: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        experiment.simulator.script("lost_reply", times=1, on="bind")
        in_doubt = [
            bind_request("92", expire_s=5_000) | {"phone_a": f"918806771{n}", "phone_b": "9188067720"}
            for n in (1, 2)
        ]
        experiment.run("run_binds", requests=[bind_request("91", expire_s=900), in_doubt[0]])
        experiment.simulator.script("reset_before", times=1, on="bind")
        experiment.run("run_binds", requests=[in_doubt[1] | {"phone_b": "9188067721", "pool_number": "93"}])
        experiment.clock.advance(320)
        slow = experiment.start("run_job", job=job, hook=(name, 1, "STOP"))
        assert experiment.wait_until_stopped(slow)
        experiment.clock.advance(PAUSES_S[pause])
        experiment.run("run_job", job="reconcile")
        experiment.run("run_job", job="expire_due")
        experiment.run("run_binds", requests=[bind_request("94")])
        experiment.resume(slow)
        experiment.wait(slow)
        experiment.assert_recovery()
