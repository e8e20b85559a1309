"""Jobs that are told to stop: they end after the current unit of work, say so, and the next run does the rest."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.clock import SYSTEM_CLOCK
from bindings.domain.binding import Caller, State
from bindings.jobs import (
    expire,
    reconcile,
    reconcile_context,
    reconcile_orphans,
    recover,
    retention,
    statistics,
)
from bindings.jobs.job import Job
from bindings.jobs.provider_lists import ProviderLists
from bindings.jobs.registry import RECONCILE
from bindings.jobs.run_control import RunControl
from bindings.jobs.runner import JobRunner
from bindings.lifecycle.unbind import release
from bindings.scheduler import STALLED_AFTER, Scheduler
from bindings.store import account
from tests.service.harness import APP, A, B, C, D, E, F, G, H, ServiceHarness, due_batches, feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.service import BindingService

CALLER = Caller(actor="test")


def set_after(count: int, stop: threading.Event, call: Callable[..., object]) -> Callable[..., object]:
    """Return the function, so that its call number `count` sets the event."""
    calls = 0

    def counted(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            stop.set()
        return call(*args, **named)

    return counted


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("page", [1, 2, 4])
def test_stopped_scan_reads_no_further_page_and_concludes_nothing(
    harness: ServiceHarness, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.register_scope(harness.database, "default")
    harness.add_foreign_bindings(55)
    harness.service.mark_restored()
    harness.clock.advance(1)
    client, stop = harness.service.runtime.client, threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(client, "page", set_after(page, stop, client.page))  # type: ignore[union-attr]
        counts = harness.service.reconcile(stop=stop)
    assert harness.received("page") == page
    assert (counts.stopped, counts.incomplete, counts.orphans, counts.made_good) == (True, 1, 0, False)
    assert counts.faults == ("it was stopped",)
    assert harness.service.reports().data[0].counts["stopped"] is True
    with pytest.raises(errors.Busy):
        harness.bind(A, B)
    again = harness.service.reconcile()
    assert (again.stopped, again.orphans, again.made_good) == (False, 55, True)


def test_stop_before_the_first_page_makes_no_call(harness: ServiceHarness) -> None:
    stop = threading.Event()
    stop.set()
    counts = harness.service.reconcile(stop=stop)
    assert (counts.stopped, counts.scans, harness.received("page")) == (True, 0, 0)


@pytest.mark.usefixtures("small_pages")
def test_stop_while_orphans_are_held_leaves_the_others_to_the_next_run(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add_foreign_bindings(30)
    stop = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(reconcile_context, "HOLD_BATCH", 4)
        patch.setattr(reconcile_orphans, "_hold_batch", set_after(2, stop, reconcile_orphans._hold_batch))
        counts = harness.service.reconcile(stop=stop)
    assert (counts.stopped, counts.orphans) == (True, 8)
    assert harness.service.reconcile().orphans == 22


@pytest.mark.usefixtures("small_pages")
def test_stop_between_two_proof_scans_proves_nothing(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost, _, _ = harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)
    harness.simulator.remove_binding(str(ghost.bind_id))
    harness.clock.advance(61)
    client, stop = harness.service.runtime.client, threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(client, "page", set_after(3, stop, client.page))  # type: ignore[union-attr]
        counts = harness.service.reconcile(stop=stop)
    assert (counts.scans, counts.stopped, counts.ghosts) == (2, True, 0)
    assert harness.service.get(ghost.id).state is State.ACTIVE
    assert harness.service.reconcile().ghosts == 1


def test_stopped_run_gives_its_period_back(harness: ServiceHarness) -> None:
    first, second = JobRunner(harness.service.runtime), JobRunner(harness.open().runtime)
    stopped = RunControl()
    stopped.stop()
    assert first.run_once_per_period(RECONCILE, 300.0, stopped).stopped  # type: ignore[union-attr]
    assert second.run_once_per_period(RECONCILE, 300.0, RunControl()).stopped is False  # type: ignore[union-attr]
    assert first.run_once_per_period(RECONCILE, 300.0, RunControl()) is None


def test_recover_that_is_stopped_repeats_no_further_unbind(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for binding in (harness.bind(A, B), harness.bind(C, D), harness.bind(E, F)):
        harness.simulator.script("lost_reply", times=1, on="unbind")
        with pytest.raises(errors.OutcomeUnknown):
            harness.service.unbind(binding.id)
    stop = threading.Event()
    runtime, before = harness.service.runtime, harness.received("unbind")
    with monkeypatch.context() as patch:
        patch.setattr("bindings.jobs.recover.release", set_after(1, stop, release))
        counts = recover.recover(runtime, RunControl(stop))
    assert (counts.unbound, counts.still_unclear) == (1, 2)
    assert harness.received("unbind") == before + 1
    assert recover.recover(runtime).unbound == 2


def test_expire_that_is_stopped_ends_after_its_batch(harness: ServiceHarness) -> None:
    for phones in ((A, B), (C, D), (E, F)):
        harness.bind(*phones, expire_s=60)
    harness.clock.advance(3_600)
    stopped = RunControl()
    stopped.stop()
    counts = expire.expire_due(due_batches(harness.service, batch=1, control=stopped))
    assert (counts.expired, counts.finished) == (1, False)
    assert harness.service.expire_due().expired == 2


def test_retention_and_statistics_that_are_stopped_end_after_their_batch(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.register_scope(harness.database, "default")
    for phones in ((A, B), (C, D), (E, F)):
        harness.bind(*phones, expire_s=60)
    feed_has_caught_up(harness.service)
    stopped = RunControl()
    stopped.stop()
    counted = statistics.update_statistics(harness.database, control=stopped, batch=1)
    assert counted.finished is False
    harness.clock.advance(3_600)
    harness.service.expire_due()
    harness.clock.advance(3 * 86_400)
    monkeypatch.setattr(retention, "BATCH", 1)
    counts = retention.apply_retention(harness.database, CALLER, 1, control=stopped)
    assert (counts.bindings, counts.finished) == (1, False)
    assert retention.apply_retention(harness.database, CALLER, 1).bindings == 2


def test_job_that_makes_progress_is_not_stalled(service: BindingService) -> None:
    job = Job(name="slow", interval_s=60.0, run=lambda: None)
    scheduler = Scheduler(service, [job])
    long_ago = float("-inf")
    scheduler._finished = dict.fromkeys(scheduler.intervals_s(), long_ago)
    assert "slow" in scheduler.stalled()
    assert scheduler.progress_ages_s()["slow"] == float("inf")
    job.control.record_progress()
    assert "slow" not in scheduler.stalled()
    job.control._progressed_at -= STALLED_AFTER * job.interval_s
    assert "slow" in scheduler.stalled()


@pytest.mark.usefixtures("small_pages")
def test_each_page_and_each_batch_of_orphans_is_progress(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.add_foreign_bindings(15)
    control, progress = RunControl(), 0

    def count() -> None:
        nonlocal progress
        progress += 1

    monkeypatch.setattr(control, "record_progress", count)
    monkeypatch.setattr(reconcile_context, "HOLD_BATCH", 4)
    lists = ProviderLists(1_000.0, SYSTEM_CLOCK)
    result = reconcile.reconcile(harness.service.runtime, lists, control=control, dry_run=False, reason=None)
    assert result.orphans == 15
    assert progress >= harness.received("page") + 4


def test_scheduler_that_stops_ends_a_job_in_the_middle_of_its_work(service: BindingService) -> None:
    started = threading.Event()
    control = RunControl()
    units: list[int] = []

    def run() -> None:
        for number in control.work_through(range(10**9)):
            units.append(number)
            started.set()

    with Scheduler(service, [Job(name="long", interval_s=3_600.0, run=run, control=control)]):
        assert started.wait(30)
    assert 0 < len(units) < 10**9


def test_phones_of_every_orphan_are_held_before_and_after_a_stop(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop never leaves one phone of a row held and the other free."""
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    harness.simulator.add_foreign_binding(phone_a=C, phone_b=D, app_id=APP)
    stop = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(reconcile_context, "HOLD_BATCH", 1)
        patch.setattr(reconcile_orphans, "_hold_batch", set_after(1, stop, reconcile_orphans._hold_batch))
        harness.service.reconcile(stop=stop)
    held = [bool(harness.service.check(phone_a=phone, phone_b=G, mode="AXB")) for phone in (A, B, C, D)]
    assert held == [True, True, False, False]
    harness.service.reconcile()
    assert harness.service.check(phone_a=C, phone_b=H, mode="AXB")
