"""The timer and a pass whose time ends before its work does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from bindings.jobs.expire import Expired
from bindings.jobs.job import Job
from bindings.scheduler import UNFINISHED_PASSES, Scheduler

if TYPE_CHECKING:
    import pytest

    from bindings.service import BindingService

NEVER_S = 3_600.0


def test_a_pass_that_ran_out_of_time_goes_on_at_once(service: BindingService) -> None:
    through, runs = threading.Event(), 0

    def run() -> Expired:
        nonlocal runs
        runs += 1
        if runs == 3:
            through.set()
        return Expired(expired=1, batches=1, finished=runs == 3)

    with Scheduler(service, [Job(name="slow", interval_s=NEVER_S, run=run)]):
        assert through.wait(30)
    assert runs == 3


def test_a_backlog_without_end_does_not_keep_the_scheduler_from_stopping(service: BindingService) -> None:
    began = threading.Event()

    def run() -> Expired:
        began.set()
        return Expired(expired=1, batches=1, finished=False)

    with Scheduler(service, [Job(name="endless", interval_s=NEVER_S, run=run)]):
        assert began.wait(30)


def test_a_pass_of_a_period_each_that_is_never_through_is_warned_of(
    service: BindingService, caplog: pytest.LogCaptureFixture
) -> None:
    """At once it finds its period taken, by itself: that is no sign of having come to an end."""
    enough, runs = threading.Event(), 0

    def run() -> Expired | None:
        nonlocal runs
        runs += 1
        if runs > 2 * UNFINISHED_PASSES:
            enough.set()
        return Expired(expired=1, batches=1, finished=False) if runs % 2 else None

    with Scheduler(service, [Job(name="slow", interval_s=0.05, run=run)]):
        assert enough.wait(30)
    assert "slow: 5 passes in a row ran out of time" in caplog.text
