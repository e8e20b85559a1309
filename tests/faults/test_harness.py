"""The harness reports what its workers do, independent of what they print or leave behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.harness import Lab

pytestmark = pytest.mark.processes


def test_output_of_a_worker_does_not_reach_the_reports(lab: Lab) -> None:
    with lab.arena("sqlite") as arena:
        worker = arena.start("print_lines")
        for _ in range(2):
            assert arena.stopped(worker)
            arena.resume(worker)
        assert arena.wait(worker) == 0
        assert "four words at least" in arena.fork_server.log.read_text()


def test_workers_left_behind_by_a_failed_test_are_killed(lab: Lab) -> None:
    with pytest.raises(ZeroDivisionError), lab.arena("sqlite") as arena:  # noqa: PT012 -- a test that fails
        running, stopped = arena.start("schedule"), arena.start("print_lines")
        assert arena.stopped(stopped)
        raise ZeroDivisionError
    for worker in (running, stopped):
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)
