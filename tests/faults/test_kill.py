"""R1: a process is killed at every fail point; after a restart nothing is unknown and no phone is stuck.

SIGKILL is sent at a seeded reach of the fail point in a seeded scenario. After that the oracle judges three times:
after a restart (recover, one reconcile), when absence is provable, and when every binding has ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from bindings import failpoints
from bindings.store.grants import FUNCTION
from bindings.store.reserve import _lock_key
from tests.faults import oracle
from tests.faults.harness import KILLED
from tests.faults.worker import PLAIN_BINDS
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from tests.faults.harness import Experiment, FaultHarness

pytestmark = pytest.mark.processes

MIGRATION = "migrate.in_transaction"
TESTED_ELSEWHERE = (
    MIGRATION,
    *(name for name in failpoints.NAMES if name.startswith(("retention.", "seal.", "erase.", "phones."))),
)  # test_retention, test_erasure, test_sealing
SCENARIO_POINTS = tuple(name for name in failpoints.NAMES if name not in TESTED_ELSEWHERE)
RELEASE_POINTS = (
    "recover.before_unbinds",
    "unbind.after_answer",
    "unbind.settle_in_transaction",
    "unbind.after_settle",
)
TAKEOVER_POINTS = tuple(name for name in SCENARIO_POINTS if "replace." in name or "end_waiting" in name)
REQUEST: dict[str, Any] = {
    "phone_a": "9188067701",
    "phone_b": "9188067799",
    "pool_number": "918806",
    "expire_s": 600,
    "mode": "AXB",
    "idempotency_key": None,
}
SEEDS = 1  # `make soak` runs many
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def kill_once(experiment: Experiment, name: str) -> None:
    """Kill a process at a fail point and check what follows; fails if the process did not reach it."""
    nth = random.Random(f"{experiment.seed}/{name}").randint(1, 3)
    code = experiment.run("scenario", name=name, hook=(name, nth, "KILL"))
    assert code == KILLED, f"seed {experiment.seed}: {name} was not reached {nth} times"
    experiment.assert_recovery()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", [name for name in SCENARIO_POINTS if name not in TAKEOVER_POINTS])
def test_R1_process_killed_at_a_fail_point_leaves_nothing_unknown_and_nothing_stuck(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    for seed in range(SEEDS):
        with fault_harness.experiment(kind, seed=seed) as experiment:
            kill_once(experiment, name)


@pytest.mark.postgres
def test_R1_process_killed_in_the_transaction_of_an_intent_leaves_nothing(fault_harness: FaultHarness) -> None:
    """Without the function that a plain bind calls: what it does not admit is decided by this transaction."""
    with fault_harness.experiment("postgresql") as experiment, psycopg.connect(experiment.url) as owner:
        owner.execute(f"ALTER FUNCTION {FUNCTION} RENAME TO {FUNCTION}_hidden".encode())
        owner.commit()
        try:
            hook = ("bind.reserve_in_transaction", 2, "KILL")  # the first one is before the call
            assert experiment.run("run_binds", requests=[REQUEST], hook=hook) == KILLED
            assert oracle.read_tables(experiment.url)["bindings"] == []
            experiment.assert_recovery()
        finally:
            owner.execute(f"ALTER FUNCTION {FUNCTION}_hidden RENAME TO {FUNCTION}".encode())


@pytest.mark.postgres
def test_R1_process_killed_while_its_call_runs_leaves_an_intent_that_recover_ends(
    fault_harness: FaultHarness,
) -> None:
    """The server goes on: it commits the intent that the process would have sent."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    waiting += " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    with fault_harness.experiment("postgresql") as experiment, psycopg.connect(experiment.url) as holder:
        scope = experiment.base_settings().get("scope", "default")
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_key(scope, REQUEST["phone_a"]),))
        process = experiment.start("run_binds", requests=[REQUEST])
        wait_for(lambda: holder.execute(waiting).fetchone() == (1,))
        os.kill(process.pid, signal.SIGKILL)
        holder.rollback()
        assert experiment.wait(process) == KILLED
        wait_for(lambda: len(oracle.read_tables(experiment.url)["bindings"]) == 1)
        assert oracle.read_tables(experiment.url)["bindings"][0]["state"] == "pending"
        assert len(experiment.simulator.ledger) == 0
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", RELEASE_POINTS)
def test_R1_process_killed_during_a_release_leaves_it_to_the_next_one(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        assert experiment.run("release", hook=(name, 1, "KILL")) == KILLED
        experiment.assert_recovery()
        entries = experiment.simulator.ledger.entries()
        assert [entry.bind_id for entry in entries if entry.unbound_at is None] == []


@pytest.mark.parametrize("kind", DATABASES)
def test_R1_processes_killed_during_a_replace_leave_one_successor_for_each_key(
    fault_harness: FaultHarness, kind: str
) -> None:
    """A repeated call makes the successor if it certainly was not sent; otherwise it returns the same one."""
    sent_by_then = {"replace.after_clear": ["failed"], "bind.after_answer": ["expired"]}  # maybe; certainly
    with fault_harness.experiment(kind) as experiment:
        killed_at: dict[str, str] = {}
        for name in (*TAKEOVER_POINTS, "bind.after_answer"):
            nth = 1 + (PLAIN_BINDS if name == "bind.after_answer" else 0)
            process = experiment.start("take_over", hook=(name, nth, "KILL"))
            assert experiment.wait(process) == KILLED, name
            killed_at[process.prefix] = name
        requests = experiment.replace_requests()
        experiment.assert_recovery()
        rows = oracle.read_tables(experiment.url)["bindings"]
        for request in requests:
            key = request["idempotency_key"]
            successors = [row for row in rows if row["replaces"] == request["binding_id"]]
            of_key = [row["state"] for row in successors if row["idempotency_key"] == key]
            never_sent = [row["reason"] for row in successors if row["freed_key"] == key]
            assert of_key == sent_by_then.get(killed_at.get(key, ""), ["expired"]), (killed_at, key, successors)
            assert set(never_sent) <= {"never_sent"}, (killed_at, key, successors)


@pytest.mark.parametrize("kind", DATABASES)
def test_R1_migration_killed_while_running_completes_when_run_again(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind, migrated=False) as experiment:
        assert experiment.run("migrate", hook=(MIGRATION, 1, "KILL")) == KILLED
        assert experiment.run("migrate") == 0
        assert experiment.run("scenario", name=MIGRATION) == 0
        experiment.assert_recovery()


@pytest.mark.parametrize("kind", DATABASES)
def test_undisturbed_scenario_is_sound_and_reaches_every_fail_point(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind, seed=7) as experiment:
        assert experiment.run("scenario", hook=("*", 1, "RECORD")) == 0
        reached = {line["name"] for line in experiment.records() if line["kind"] == "reached"}
        assert reached == set(SCENARIO_POINTS), (
            "the scenario reaches every fail point except those of the migration and of retention"
        )
        experiment.assert_recovery()


SOAK_SEEDS = 200
LIMIT_S = float(os.environ.get("BINDINGS_TEST_SOAK_S", "600"))  # of each long run, and of each fail point here


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", SCENARIO_POINTS)
def test_R1_process_killed_at_a_fail_point_with_many_seeds_leaves_nothing_unknown(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    until = time.monotonic() + LIMIT_S
    completed = 0
    try:
        for seed in range(1_000, 1_000 + SOAK_SEEDS):
            if time.monotonic() > until:
                break
            with fault_harness.experiment(kind, seed=seed) as experiment:
                kill_once(experiment, name)
            completed += 1
    finally:
        report(run="kill", name=name, kind=kind, sound=completed)


def report(**line: object) -> None:
    """Append a line to the file that BINDINGS_TEST_SOAK_REPORT names, if it is set."""
    file = os.environ.get("BINDINGS_TEST_SOAK_REPORT")
    if file:
        with Path(file).open("a") as out:
            out.write(json.dumps(line) + "\n")
