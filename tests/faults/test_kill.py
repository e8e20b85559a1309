"""R1: a process is killed at every named step; restarted, the product knows everything and holds nothing back.

SIGKILL strikes at a seeded reach of a seeded story. Then: restart, recover, one reconcile, and the oracle judges;
once more when doubts have come of age; and once more when every life is over.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bindings import failpoints
from tests.faults.harness import KILLED

if TYPE_CHECKING:
    from tests.faults.harness import Arena, Lab

pytestmark = pytest.mark.processes

MIGRATION = "migrate.in_transaction"
ELSEWHERE = (MIGRATION, *(name for name in failpoints.NAMES if name.startswith("retention.")))  # test_retention
STORY = tuple(name for name in failpoints.NAMES if name not in ELSEWHERE)
SEEDS = 2
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def kill_once(arena: Arena, name: str) -> None:
    """One death at `name`, and what follows; fails where the process was never killed there."""
    nth = random.Random(f"{arena.seed}/{name}").randint(1, 3)
    code = arena.run("story", name=name, hook=(name, nth, "KILL"))
    assert code == KILLED, f"seed {arena.seed}: {name} was not reached {nth} times"
    arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", STORY)
def test_R1_process_killed_at_any_step_leaves_no_unknown_binding_and_no_stuck_phone(
    lab: Lab, kind: str, name: str
) -> None:
    for seed in range(SEEDS):
        with lab.arena(kind, seed=seed) as arena:
            kill_once(arena, name)


@pytest.mark.parametrize("kind", DATABASES)
def test_R1_a_migration_that_is_killed_is_begun_again_and_ends(lab: Lab, kind: str) -> None:
    with lab.arena(kind, migrated=False) as arena:
        assert arena.run("migrate", hook=(MIGRATION, 1, "KILL")) == KILLED
        assert arena.run("migrate") == 0
        assert arena.run("story", name=MIGRATION) == 0
        arena.aftermath()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_story_that_nobody_disturbs_is_sound_and_passes_every_fail_point(lab: Lab, kind: str) -> None:
    with lab.arena(kind, seed=7) as arena:
        assert arena.run("story", hook=("*", 1, "TELL")) == 0
        reached = {line["name"] for line in arena.told() if line["what"] == "reached"}
        assert reached == set(STORY), "every fail point but the migration's and retention's is in the story"
        arena.aftermath()


SOAK_SEEDS = 200
LIMIT_S = float(os.environ.get("BINDINGS_TEST_SOAK_S", "600"))  # for each long run, and for each point here


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S + 120)
@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", STORY)
def test_R1_two_hundred_deaths_at_each_step(lab: Lab, kind: str, name: str) -> None:
    until = time.monotonic() + LIMIT_S
    done = 0
    try:
        for seed in range(1_000, 1_000 + SOAK_SEEDS):
            if time.monotonic() > until:
                break
            with lab.arena(kind, seed=seed) as arena:
                kill_once(arena, name)
            done += 1
    finally:
        report(what="kill", name=name, kind=kind, sound=done)


def report(**line: object) -> None:
    """A line in the file that BINDINGS_TEST_SOAK_REPORT names, if it names one."""
    file = os.environ.get("BINDINGS_TEST_SOAK_REPORT")
    if file:
        with Path(file).open("a") as out:
            out.write(json.dumps(line) + "\n")
