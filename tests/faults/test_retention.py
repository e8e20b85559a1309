"""R1 for retention: killed at every step of it, it is run again, ends, and has deleted nothing too soon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from bindings import failpoints
from tests.faults import oracle
from tests.faults.harness import KILLED

if TYPE_CHECKING:
    from tests.faults.harness import Arena, Lab
    from tests.faults.oracle import Evidence

pytestmark = pytest.mark.processes

DAY_S = 86_400.0
KEEP_DAYS = 7
BEGIN = "retention.before_begin"
OF_PARTITIONS = (BEGIN, "retention.after_mark", "retention.after_detach")
STEPS = [
    *(("sqlite", name) for name in failpoints.NAMES if name == "retention.in_transaction"),
    *(
        pytest.param("postgresql", name, marks=pytest.mark.postgres)
        for name in failpoints.NAMES
        if name.startswith("retention.")
    ),
]


def bind(arena: Arena, number: int) -> None:
    asked = {"pool_number": f"7{number:05}", "expire_s": 3_600, "mode": "AXB", "idempotency_key": f"late-{number}"}
    phones = {"phone_a": f"9199{number:06}", "phone_b": f"9198{number:06}"}
    assert arena.run("bind_one", asked=[phones | asked]) == 0


def run_pass(arena: Arena, name: str, *, killed_at: str | None = None) -> None:
    hook = None if killed_at is None else (killed_at, 1, "KILL")
    code = arena.run("run_pass", hook=hook, **{"pass": name})
    assert code == (0 if hook is None else KILLED), f"{killed_at} was not reached"


def gathered(arena: Arena, before: Evidence | None = None) -> Evidence:
    """What there is, and what there was before and is no more."""
    now = oracle.gather(arena.url, arena.simulator, told=arena.told(), rules=arena.rules, settled=True)
    if before is None:
        return now
    ids = {row["id"] for row in now.rows}
    positions = {event["position"] for event in now.events}
    rows = [row for row in before.rows if row["id"] not in ids]
    events = [event for event in before.events if event["position"] not in positions]
    return replace(now, rows=[*rows, *now.rows], events=[*events, *now.events])


def assert_sound(arena: Arena, before: Evidence) -> None:
    rest, violations = oracle.retained(gathered(arena), before, KEEP_DAYS * DAY_S)
    assert violations + oracle.judge(rest) == []


def retain(arena: Arena, before: Evidence, killed_at: str | None) -> None:
    """Killed where it reaches a name, if one is given; and run to its end."""
    if killed_at is not None:
        run_pass(arena, "retain", killed_at=killed_at)
        assert_sound(arena, before)
    run_pass(arena, "retain")
    assert_sound(arena, before)


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_R1_retention_that_is_killed_here_is_run_again_and_has_deleted_nothing_too_soon(
    lab: Lab, kind: str, name: str
) -> None:
    with lab.arena(kind, seed=11, migrated=False, retention_days=KEEP_DAYS) as arena:
        arena.run("migrate")
        arena.run("story")
        arena.aftermath()
        arena.clock.advance(40 * DAY_S)
        before = gathered(arena)
        retain(arena, before, name if name == BEGIN else None)
        bind(arena, 1)
        arena.clock.advance(20 * DAY_S)
        run_pass(arena, "expire_due")
        bind(arena, 2)
        before = gathered(arena, before)
        retain(arena, before, None if name == BEGIN else name)
        assert [row["pool_number"] for row in gathered(arena).rows] == ["700002"], "the one that lives"
        if arena.postgres:
            with psycopg.connect(arena.url) as server:
                tables = server.execute("SELECT relname FROM pg_class WHERE relname ~ '^events_(start|[0-9_]+)$'")
                assert len(tables.fetchall()) == 1, "the month in use"
