"""The harness reports what its workers do, independent of what they print or leave behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.harness import FaultHarness

pytestmark = pytest.mark.processes


def test_output_of_a_worker_does_not_reach_the_reports(fault_harness: FaultHarness) -> None:
    with fault_harness.experiment("sqlite") as experiment:
        worker = experiment.start("print_lines")
        for _ in range(2):
            assert experiment.wait_until_stopped(worker)
            experiment.resume(worker)
        assert experiment.wait(worker) == 0
        assert "four words at least" in experiment.fork_server.log.read_text()


def test_workers_left_behind_by_a_failed_test_are_killed(fault_harness: FaultHarness) -> None:
    with pytest.raises(ZeroDivisionError), fault_harness.experiment("sqlite") as experiment:  # noqa: PT012 -- a test that fails
        running, stopped = experiment.start("schedule"), experiment.start("print_lines")
        assert experiment.wait_until_stopped(stopped)
        raise ZeroDivisionError
    for worker in (running, stopped):
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)
