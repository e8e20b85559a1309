"""R2, R5, R8: many processes and threads, few phones, short lives, on the machine's own clock."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from bindings.provider.simulator import parse_fault
from bindings.store import job_runs
from bindings.store.engine import make_engine
from tests.faults import oracle
from tests.faults.harness import KILLED
from tests.faults.test_kill import DATABASES, LIMIT_S, SCENARIO_POINTS, report

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.faults.harness import Experiment, FaultHarness, Process

pytestmark = pytest.mark.processes

GUARD_S = 1.0
PROCESSES = 4
THREADS = 16


def run_load(fault_harness: FaultHarness, kind: str, *, seconds: float, seed: int) -> Counter[str]:
    """Run the R2 load; return the counts of all results. Fails on any violation."""
    rules = oracle.Rules(guard_s=GUARD_S, tolerance_s=3.0)
    with fault_harness.experiment(
        kind, seed=seed, rules=rules, bind_limit=THREADS, sweep_interval_s=0.2
    ) as experiment:
        phones = [f"91880677{number:02d}" for number in range(50)]
        workers = [
            experiment.start("load", seconds=seconds, threads=THREADS, phones=phones) for _ in range(PROCESSES)
        ]
        for worker in workers:
            assert experiment.wait(worker, within_s=seconds + 60) == 0
        counts: Counter[str] = Counter()
        for line in experiment.records():
            if line["kind"] == "load":
                counts.update(line["counts"])
        unexpected = [name for name in counts if name.startswith("UNEXPECTED")]
        assert not unexpected, unexpected
        assert "-35" not in experiment.simulator.counts.decided.get("bind", {})
        assert experiment.simulator.ledger.overlaps() == ()
        experiment.assert_sound()
        experiment.clock.advance(20)
        experiment.run("run_job", job="recover")
        experiment.run("run_job", job="reconcile")
        experiment.run("run_job", job="expire_due")
        experiment.assert_sound(settled=True)
        report(run="load", kind=kind, seconds=seconds, seed=seed, counts=counts)
        return counts


@pytest.mark.parametrize("kind", DATABASES)
def test_R2_sixty_four_threads_on_fifty_phones_get_no_refusal_for_our_own_bindings(
    fault_harness: FaultHarness, kind: str
) -> None:
    counts = run_load(fault_harness, kind, seconds=4.0, seed=1)
    assert counts["bound"] > 10
    assert counts["unbound"] > 5


FAULT_RATES = {
    "lost_reply@bind": 0.06,
    "delay_before:0.5@bind": 0.04,
    "cut_body@bind": 0.04,
    "reset_before@bind": 0.04,
    "anomaly_after@bind": 0.02,
    "lost_reply@unbind": 0.1,
    "bad_gateway@page": 0.1,
}


def run_faulty_load(fault_harness: FaultHarness, kind: str, *, seconds: float, seed: int) -> Counter[str]:
    """Run the R2 load with a provider that fails in every way and processes that are killed and replaced."""
    rng = random.Random(seed)
    rules = oracle.Rules(guard_s=GUARD_S, tolerance_s=3.0)
    counts: Counter[str] = Counter()
    with fault_harness.experiment(
        kind, seed=seed, rules=rules, bind_limit=THREADS, provider_timeout_s=0.3
    ) as experiment:
        for fault, rate in FAULT_RATES.items():
            experiment.simulator.script(parse_fault(f"{fault}={rate}"))
        phones = [f"91880677{number:02d}" for number in range(50)]
        until = time.monotonic() + seconds

        def start_worker() -> Process:
            hook = (rng.choice(SCENARIO_POINTS), rng.randint(1, 10), "KILL")
            remaining_s = max(0.5, until - time.monotonic())
            return experiment.start("load", seconds=remaining_s, threads=THREADS, phones=phones, hook=hook)

        workers = [start_worker() for _ in range(PROCESSES)]
        while time.monotonic() < until:
            for position, worker in enumerate(workers):
                if not experiment.fork_server.is_running(worker.pid):
                    counts["killed"] += experiment.wait(worker) == KILLED
                    workers[position] = start_worker()
            time.sleep(0.05)
        for worker in workers:
            counts["killed"] += experiment.wait(worker, within_s=seconds + 60) == KILLED
        experiment.simulator.clear_faults()
        experiment.assert_sound()
        experiment.clock.advance(20)
        for name in ("recover", "reconcile", "expire_due"):
            experiment.run("run_job", job=name)
        experiment.assert_sound(settled=True)
        experiment.clock.advance(120)
        for name in ("recover", "reconcile", "expire_due"):
            experiment.run("run_job", job=name)
        experiment.assert_sound(settled=True, over=True)
        assert "-35" not in experiment.simulator.counts.decided.get("bind", {})
        counts.update({f"bind {status}": n for status, n in experiment.simulator.counts.decided["bind"].items()})
        counts.update(Counter(row["state"] for row in oracle.read_tables(experiment.url)["bindings"]))
        report(run="faulty load", kind=kind, seconds=seconds, seed=seed, counts=counts)
    return counts


@pytest.mark.parametrize("kind", DATABASES)
def test_R1_R2_load_with_a_failing_provider_and_killed_processes_is_sound(
    fault_harness: FaultHarness, kind: str
) -> None:
    counts = run_faulty_load(fault_harness, kind, seconds=4.0, seed=1)
    assert counts["killed"] > 0
    assert counts["bind 0"] > 5


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S * 2 + 300)
@pytest.mark.parametrize("kind", DATABASES)
def test_R1_R2_longer_load_with_a_failing_provider_and_killed_processes_is_sound(
    fault_harness: FaultHarness, kind: str
) -> None:
    until = time.monotonic() + LIMIT_S
    seed = 100
    while time.monotonic() < until:
        seed += 1
        run_faulty_load(fault_harness, kind, seconds=10.0, seed=seed)


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S * 2 + 120)
@pytest.mark.parametrize("kind", DATABASES)
def test_R2_longer_load_is_sound(fault_harness: FaultHarness, kind: str) -> None:
    assert run_load(fault_harness, kind, seconds=LIMIT_S, seed=2)["bound"] > LIMIT_S


@pytest.mark.parametrize("kind", DATABASES)
def test_R5_twenty_calls_with_one_key_in_four_processes_send_one_request(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        start_signal = experiment.folder / "start_signal"
        request: dict[str, Any] = {
            "phone_a": "9188067701",
            "phone_b": "9188067799",
            "pool_number": "91",
            "expire_s": 600,
            "mode": "AXB",
            "idempotency_key": "one",
        }
        workers = [
            experiment.start("same_key", requests=[request], threads=5, start_signal=str(start_signal))
            for _ in range(4)
        ]
        start_signal.touch()
        for worker in workers:
            assert experiment.wait(worker) == 0
        assert experiment.simulator.counts.received["bind"] == 1
        responses = [line for line in experiment.records() if line["kind"] in ("bound", "refused")]
        assert len(responses) == 20
        assert len({(line["id"], line.get("bind_id"), line.get("expires_at")) for line in responses}) == 1
        assert {line["kind"] for line in responses} == {"bound"}
        experiment.assert_recovery()


def expire_together(experiment: Experiment, replicas: int, due: int) -> None:
    """Start many schedulers together on a backlog, and check that each binding ends once."""
    with experiment.service() as service:
        for number in range(due):
            service.bind(
                phone_a=f"91880{number:05d}",
                phone_b=f"91881{number:05d}",
                pool_number=f"9{number}",
                expire_s=5,
                mode="AXB",
            )
    experiment.clock.advance(10)
    workers = [experiment.start("schedule") for _ in range(replicas)]
    with experiment.service() as service:
        wait_while_running(experiment, workers, lambda: service.stats()["by_state"].get("expired") == due)
        wait_while_running(
            experiment,
            workers,
            lambda: sum(line["kind"] == "scheduling" for line in experiment.records()) == replicas,
        )
        database = service.runtime.database
        wait_while_running(
            experiment, workers, lambda: database.read(job_runs.last_finished, "reconcile") is not None
        )
    for worker in workers:
        terminate(worker.pid)
    for worker in workers:
        assert experiment.wait(worker) == 0
    events = oracle.read_tables(experiment.url)["events"]
    assert Counter(event["kind"] for event in events)["expired"] == due
    slots = claimed_slots(experiment)
    assert len(slots) == len(set(slots)), "each slot of a job runs once"
    assert any(task == "reconcile" for task, _ in slots)
    experiment.assert_sound(settled=True)


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_R8_replicas_that_expire_the_same_backlog_end_each_binding_once(
    fault_harness: FaultHarness, kind: str, replicas: int
) -> None:
    with fault_harness.experiment(
        kind, sweep_interval_s=0.2, reconcile_interval_s=300.0, pool_size=3
    ) as experiment:
        expire_together(experiment, replicas, due=40)
        scans = experiment.simulator.counts.received.get("page", 0)
        assert scans <= 4 * 2, "one scan per slot, for any number of replicas"


def wait_while_running(experiment: Experiment, workers: list[Process], condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fails with the log of a worker that ends before."""
    while not condition():
        for worker in workers:
            assert experiment.fork_server.is_running(worker.pid), experiment.log(worker)
        time.sleep(0.01)


def terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def claimed_slots(experiment: Experiment) -> list[tuple[str, int]]:
    """Return every claimed (job, slot), read without the product."""
    engine = make_engine(experiment.url, autocommit=True)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT task, slot FROM passes WHERE task <> 'expire'"))
            return [(str(row.task), int(row.slot)) for row in rows]
    finally:
        engine.dispose()
