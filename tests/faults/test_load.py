"""R2, R5, R8: many processes and threads at once, on few phones, with short lives, on the machine's own clock."""

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
from bindings.store.engine import make_engine
from tests.faults import oracle
from tests.faults.harness import KILLED
from tests.faults.test_kill import DATABASES, LIMIT_S, STORY, report

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tests.faults.harness import Arena, Lab, Process

pytestmark = pytest.mark.processes

GUARD_S = 1.0
PROCESSES = 4
THREADS = 16


def storm(lab: Lab, kind: str, *, seconds: float, seed: int) -> Counter[str]:
    """The R2 run; what came of every bind, over all processes. Fails on any violation."""
    rules = oracle.Rules(guard_s=GUARD_S, tolerance_s=3.0)
    with lab.arena(kind, seed=seed, rules=rules, bind_limit=THREADS, sweep_interval_s=0.2) as arena:
        phones = [f"91880677{number:02d}" for number in range(50)]
        workers = [arena.start("load", seconds=seconds, threads=THREADS, phones=phones) for _ in range(PROCESSES)]
        for worker in workers:
            assert arena.wait(worker, within_s=seconds + 60) == 0
        counts: Counter[str] = Counter()
        for line in arena.told():
            if line["what"] == "load":
                counts.update(line["counts"])
        unexpected = [name for name in counts if name.startswith("UNEXPECTED")]
        assert not unexpected, unexpected
        assert "-35" not in arena.simulator.counts.decided.get("bind", {})
        assert arena.simulator.ledger.overlaps() == ()
        arena.assert_sound()
        arena.clock.advance(20)
        arena.run("run_pass", **{"pass": "recover"})
        arena.run("run_pass", **{"pass": "reconcile"})
        arena.run("run_pass", **{"pass": "expire_due"})
        arena.assert_sound(settled=True)
        report(what="storm", kind=kind, seconds=seconds, seed=seed, counts=counts)
        return counts


@pytest.mark.parametrize("kind", DATABASES)
def test_R2_sixty_four_callers_on_fifty_phones_never_meet_a_refusal_of_our_own(lab: Lab, kind: str) -> None:
    counts = storm(lab, kind, seconds=10.0, seed=1)
    assert counts["bound"] > 50
    assert counts["unbound"] > 5


CHAOS = {
    "lost_reply@bind": 0.06,
    "delay_before:0.5@bind": 0.04,
    "cut_body@bind": 0.04,
    "reset_before@bind": 0.04,
    "anomaly_after@bind": 0.02,
    "lost_reply@unbind": 0.1,
    "bad_gateway@page": 0.1,
}


def chaos(lab: Lab, kind: str, *, seconds: float, seed: int) -> Counter[str]:
    """R2 with a provider that fails in every way, and processes that are killed and replaced all the while."""
    dice = random.Random(seed)
    rules = oracle.Rules(guard_s=GUARD_S, tolerance_s=3.0)
    counts: Counter[str] = Counter()
    with lab.arena(kind, seed=seed, rules=rules, bind_limit=THREADS, provider_timeout_s=0.3) as arena:
        for fault, rate in CHAOS.items():
            arena.simulator.script(parse_fault(f"{fault}={rate}"))
        phones = [f"91880677{number:02d}" for number in range(50)]
        until = time.monotonic() + seconds

        def started() -> Process:
            hook = (dice.choice(STORY), dice.randint(1, 10), "KILL")
            left_s = max(0.5, until - time.monotonic())
            return arena.start("load", seconds=left_s, threads=THREADS, phones=phones, hook=hook)

        workers = [started() for _ in range(PROCESSES)]
        while time.monotonic() < until:
            for position, worker in enumerate(workers):
                if not arena.fork_server.is_running(worker.pid):
                    counts["killed"] += arena.wait(worker) == KILLED
                    workers[position] = started()
            time.sleep(0.05)
        for worker in workers:
            counts["killed"] += arena.wait(worker, within_s=seconds + 60) == KILLED
        arena.simulator.clear_faults()
        arena.assert_sound()
        arena.clock.advance(20)
        for name in ("recover", "reconcile", "expire_due"):
            arena.run("run_pass", **{"pass": name})
        arena.assert_sound(settled=True)
        arena.clock.advance(120)
        for name in ("recover", "reconcile", "expire_due"):
            arena.run("run_pass", **{"pass": name})
        arena.assert_sound(settled=True, over=True)
        assert "-35" not in arena.simulator.counts.decided.get("bind", {})
        counts.update({f"bind {status}": n for status, n in arena.simulator.counts.decided["bind"].items()})
        counts.update(Counter(row["state"] for row in oracle.read_tables(arena.url)["bindings"]))
        report(what="chaos", kind=kind, seconds=seconds, seed=seed, counts=counts)
    return counts


@pytest.mark.parametrize("kind", DATABASES)
def test_R1_R2_a_storm_with_a_failing_provider_and_dying_processes_is_sound(lab: Lab, kind: str) -> None:
    counts = chaos(lab, kind, seconds=6.0, seed=1)
    assert counts["killed"] > 0
    assert counts["bind 0"] > 5


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S * 2 + 300)
@pytest.mark.parametrize("kind", DATABASES)
def test_R1_R2_a_longer_storm_with_a_failing_provider_and_dying_processes(lab: Lab, kind: str) -> None:
    until = time.monotonic() + LIMIT_S
    seed = 100
    while time.monotonic() < until:
        seed += 1
        chaos(lab, kind, seconds=10.0, seed=seed)


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S * 2 + 120)
@pytest.mark.parametrize("kind", DATABASES)
def test_R2_for_longer(lab: Lab, kind: str) -> None:
    assert storm(lab, kind, seconds=LIMIT_S, seed=2)["bound"] > LIMIT_S


@pytest.mark.parametrize("kind", DATABASES)
def test_R5_twenty_callers_of_one_key_in_four_processes_send_one_request(lab: Lab, kind: str) -> None:
    with lab.arena(kind) as arena:
        shot = arena.folder / "shot"
        request: dict[str, Any] = {
            "phone_a": "9188067701",
            "phone_b": "9188067799",
            "pool_number": "91",
            "expire_s": 600,
            "mode": "AXB",
            "idempotency_key": "one",
        }
        workers = [arena.start("same_key", asked=[request], threads=5, shot=str(shot)) for _ in range(4)]
        shot.touch()
        for worker in workers:
            assert arena.wait(worker) == 0
        assert arena.simulator.counts.received["bind"] == 1
        answers = [line for line in arena.told() if line["what"] in ("bound", "refused")]
        assert len(answers) == 20
        assert len({(line["id"], line.get("bind_id"), line.get("expires_at")) for line in answers}) == 1
        assert {line["what"] for line in answers} == {"bound"}
        arena.aftermath()


def sweep_together(arena: Arena, replicas: int, due: int) -> None:
    """Many schedulers start at once on a backlog; all of it ends, once each."""
    with arena.service() as service:
        for number in range(due):
            service.bind(
                phone_a=f"91880{number:05d}",
                phone_b=f"91881{number:05d}",
                pool_number=f"9{number}",
                expire_s=5,
                mode="AXB",
            )
    arena.clock.advance(10)
    workers = [arena.start("schedule") for _ in range(replicas)]
    # However long that takes: the processes end it by ending themselves, and the test's own time limit.
    with arena.service() as service:
        wait_while_running(arena, workers, lambda: service.stats()["by_state"].get("expired") == due)
        wait_while_running(
            arena,
            workers,
            lambda: sum(line["what"] == "scheduling" for line in arena.told()) == replicas,
        )
        wait_while_running(arena, workers, lambda: any(task == "reconcile" for task, _ in passes_run(arena)))
    for worker in workers:
        terminate(worker.pid)
    for worker in workers:
        assert arena.wait(worker) == 0
    events = oracle.read_tables(arena.url)["events"]
    assert Counter(event["kind"] for event in events)["expired"] == due
    slots = passes_run(arena)
    assert len(slots) == len(set(slots)), "each slot of reconcile and of recover was run once"
    assert any(task == "reconcile" for task, _ in slots)
    arena.assert_sound(settled=True)


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_R8_replicas_that_sweep_together_end_each_binding_once(lab: Lab, kind: str, replicas: int) -> None:
    with lab.arena(kind, sweep_interval_s=0.2, reconcile_interval_s=300.0) as arena:
        sweep_together(arena, replicas, due=40)
        scans = arena.simulator.counts.received.get("page", 0)
        assert scans <= 4 * 2, "a slot is one pass over the list, however many replicas there are"


def wait_while_running(arena: Arena, workers: list[Process], condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; fails with the log of a worker that ends before."""
    while not condition():
        for worker in workers:
            assert arena.fork_server.is_running(worker.pid), arena.log(worker)
        time.sleep(0.01)


def terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def passes_run(arena: Arena) -> list[tuple[str, int]]:
    """Every (task, slot) that was taken, past the product."""
    engine = make_engine(arena.url, autocommit=True)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT task, slot FROM passes WHERE task <> 'expire'"))
            return [(str(row.task), int(row.slot)) for row in rows]
    finally:
        engine.dispose()
