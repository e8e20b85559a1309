"""The scheduler, with jobs whose time budget ends before their work does."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from bindings.errors import Busy
from bindings.jobs.expire import ExpireResult
from bindings.jobs.job import Job
from bindings.jobs.registry import EXPIRE, WARN
from bindings.jobs.runner import JobRunner
from bindings.scheduler import UNFINISHED_RUNS, Scheduler
from bindings.store import job_runs

if TYPE_CHECKING:
    import pytest

    from bindings.service import BindingService

NEVER_S = 3_600.0


def test_job_that_ran_out_of_time_runs_again_immediately(service: BindingService) -> None:
    finished, runs = threading.Event(), 0

    def run() -> ExpireResult:
        nonlocal runs
        runs += 1
        if runs == 3:
            finished.set()
        return ExpireResult(expired=1, batches=1, finished=runs == 3)

    with Scheduler(service, [Job(name="slow", interval_s=NEVER_S, run=run)]):
        assert finished.wait(300)
    assert runs == 3


def test_endless_backlog_does_not_keep_the_scheduler_from_stopping(service: BindingService) -> None:
    started = threading.Event()

    def run() -> ExpireResult:
        started.set()
        return ExpireResult(expired=1, batches=1, finished=False)

    with Scheduler(service, [Job(name="endless", interval_s=NEVER_S, run=run)]):
        assert started.wait(300)


def test_once_per_period_job_that_never_finishes_logs_a_warning(
    service: BindingService, caplog: pytest.LogCaptureFixture
) -> None:
    """Its immediate second run finds the period already claimed by itself; that does not count as finished."""
    repeated, runs = threading.Event(), 0

    def run() -> ExpireResult | None:
        nonlocal runs
        runs += 1
        if runs > 2 * UNFINISHED_RUNS:
            repeated.set()
        return ExpireResult(expired=1, batches=1, finished=False) if runs % 2 else None

    with Scheduler(service, [Job(name="slow", interval_s=0.05, run=run)]):
        assert repeated.wait(300)
    assert "slow: 5 runs in a row ran out of time" in caplog.text


def test_job_that_fails_for_a_known_cause_logs_one_line_and_no_traceback(
    service: BindingService, caplog: pytest.LogCaptureFixture
) -> None:
    succeeded, runs = threading.Event(), 0

    def run() -> ExpireResult:
        nonlocal runs
        runs += 1
        if runs < 10:
            raise Busy("the database is away")
        succeeded.set()
        return ExpireResult(expired=0, batches=1, finished=True)

    with Scheduler(service, [Job(name="failing", interval_s=0.05, run=run)]):
        assert succeeded.wait(300)
    lines = [record.getMessage() for record in caplog.records if "the database is away" in record.getMessage()]
    assert lines == [
        "failing: failed and is tried again: the database is away",
        "failing: works again after: the database is away (8 more times)",
    ]
    assert "Traceback" not in caplog.text


def test_heartbeat_of_one_job_does_not_delay_that_of_another(service: BindingService) -> None:
    runner = JobRunner(service.runtime)
    for job in (EXPIRE, replace(WARN, heartbeat=True)):
        runner.run(job)
        assert service.runtime.database.read(job_runs.last_finished, job.name) is not None
