"""R1 for retention: killed at any step it completes when run again, and has deleted nothing too soon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from bindings import failpoints
from tests.faults import oracle
from tests.faults.harness import KILLED

if TYPE_CHECKING:
    from tests.faults.harness import Experiment, FaultHarness
    from tests.faults.oracle import Evidence

pytestmark = pytest.mark.processes

DAY_S = 86_400.0
KEEP_DAYS = 7
BEGIN = "retention.before_begin"
STEPS = [
    *(("sqlite", name) for name in failpoints.NAMES if name == "retention.in_transaction"),
    *(
        pytest.param("postgresql", name, marks=pytest.mark.postgres)
        for name in failpoints.NAMES
        if name.startswith("retention.")
    ),
]


def bind(experiment: Experiment, number: int) -> None:
    request = {
        "pool_number": f"7{number:05}",
        "expire_s": 3_600,
        "mode": "AXB",
        "idempotency_key": f"late-{number}",
    }
    phones = {"phone_a": f"9199{number:06}", "phone_b": f"9198{number:06}"}
    assert experiment.run("run_binds", requests=[phones | request]) == 0


def run_job(experiment: Experiment, name: str, *, killed_at: str | None = None) -> None:
    hook = None if killed_at is None else (killed_at, 1, "KILL")
    code = experiment.run("run_job", hook=hook, job=name)
    assert code == (0 if hook is None else KILLED), f"{killed_at} was not reached"


def gathered(experiment: Experiment, before: Evidence | None = None) -> Evidence:
    """Gather the evidence, and add what was there before and is deleted."""
    now = oracle.gather(
        experiment.url, experiment.simulator, records=experiment.records(), rules=experiment.rules, settled=True
    )
    if before is None:
        return now
    ids = {row["id"] for row in now.rows}
    positions = {event["position"] for event in now.events}
    rows = [row for row in before.rows if row["id"] not in ids]
    events = [event for event in before.events if event["position"] not in positions]
    return replace(now, rows=[*rows, *now.rows], events=[*events, *now.events])


def assert_sound(experiment: Experiment, before: Evidence) -> None:
    remaining, violations = oracle.retained(gathered(experiment), before, KEEP_DAYS * DAY_S)
    assert violations + oracle.judge(remaining) == []


def retain(experiment: Experiment, before: Evidence, killed_at: str | None) -> None:
    """Run retention, first killed at a fail point if one is given, then to its end."""
    if killed_at is not None:
        run_job(experiment, "apply_retention", killed_at=killed_at)
        assert_sound(experiment, before)
    run_job(experiment, "apply_retention")
    assert_sound(experiment, before)


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_R1_retention_killed_at_a_step_completes_when_run_again_and_deletes_nothing_too_soon(
    fault_harness: FaultHarness, kind: str, name: str
) -> None:
    with fault_harness.experiment(kind, seed=11, migrated=False, retention_days=KEEP_DAYS) as experiment:
        experiment.run("migrate")
        experiment.run("scenario")
        experiment.assert_recovery()
        experiment.clock.advance(40 * DAY_S)
        before = gathered(experiment)
        retain(experiment, before, name if name == BEGIN else None)
        bind(experiment, 1)
        experiment.clock.advance(20 * DAY_S)
        run_job(experiment, "expire_due")
        bind(experiment, 2)
        before = gathered(experiment, before)
        retain(experiment, before, None if name == BEGIN else name)
        assert [row["pool_number"] for row in gathered(experiment).rows] == ["700002"], "the live binding"
        if experiment.postgres:
            with psycopg.connect(experiment.url) as server:
                tables = server.execute("SELECT relname FROM pg_class WHERE relname ~ '^events_(start|[0-9_]+)$'")
                assert len(tables.fetchall()) == 1, "the month in use"
