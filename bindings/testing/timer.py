"""Lets time pass for the jobs: the scheduler's jobs at their intervals, in order, without waiting.

The clock moves in steps. It stops where the scheduler would find work: at each instant that a row names (a
warning, an end, a deadline, the next attempt of a delivery); after a change, once for each job; and while
something is open, at each run of the jobs that may settle it. In between no job has work, and none is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode, State
from bindings.jobs.job import Job
from bindings.jobs.registry import JOBS, LOOK, RECONCILE, RECOVER
from bindings.jobs.runner import JobRunner
from bindings.scheduler import ACTOR, scheduled_jobs
from bindings.testing.final_events import wait_until_final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from bindings.testing.manual_clock import ManualClock
    from bindings.webhooks.sender import DeliverResult

BEGINNING = datetime.min.replace(tzinfo=UTC)
DELIVER = "deliver"
PAGE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRun:
    """One run of a job: when it was, and its counts, the result that the job documents."""

    job: str
    at: datetime
    counts: object


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contents:
    """What the jobs of a test may change; a later value differs if they have changed something."""

    feed_end: str
    bindings: tuple[Binding, ...]


class JobTimer:
    """The jobs of one service, as a scheduler on a `ManualClock` runs them. For one thread."""

    def __init__(self, service: BindingService, clock: ManualClock) -> None:
        self._service = service.as_caller(actor=ACTOR)
        self._clock = clock
        delivery = Job(name=DELIVER, interval_s=1.0, run=partial(deliver, self._service))
        self._jobs = (*scheduled_jobs(self._service.runtime), delivery)
        self._ran_at: dict[str, datetime] = {}
        self._waiting: set[str] = set()  # the jobs that have not run since the last change

    def pass_time(self, seconds: float) -> list[JobRun]:
        """Move the clock by `seconds`, run every job that is due meanwhile, and return the runs in order.

        What a job raises is raised, and leaves the clock where it is. ValueError if `seconds` is negative.
        """
        if not seconds >= 0:
            raise ValueError("seconds must not be negative: the clock only moves forward")
        end = self._clock.now() + timedelta(seconds=seconds)
        self._mark_all_due()  # the test may have changed something
        contents = self._contents()
        runs = self._run_due(self._waiting)
        while (now := self._clock.now()) < end:
            if (newest := self._contents()) != contents:
                self._mark_all_due()
                contents = newest
            with_work = self._waiting.union(*(_open_jobs(binding, now) for binding in contents.bindings))
            next_runs = [self._next_run(job) for job in self._jobs if job.name in with_work]
            due_at = min((end, *(at for at in self._deadlines(contents.bindings) if at > now)))
            stop = max(now, min((due_at, *next_runs)))
            if stop == due_at:
                self._mark_all_due()
            self._clock.move_to(stop)
            runs += self._run_due(with_work | self._waiting)
        return runs

    def run(self, name: str) -> JobRun:
        """Run a job now, also if it is not due, and return the run. ValueError lists the names."""
        specs = {spec.name: spec for spec in JOBS}
        now = self._clock.now()
        if name == DELIVER:
            return JobRun(job=name, at=now, counts=deliver(self._service))
        if name not in specs:
            raise ValueError(f"{name!r} is not a job; the jobs are {', '.join((*specs, DELIVER))}")
        return JobRun(job=name, at=now, counts=JobRunner(self._service.runtime).run(specs[name]))

    def _run_due(self, names: Collection[str]) -> list[JobRun]:
        """Run those of these jobs whose interval has passed, until each has done its work; return the runs."""
        runs = []
        for job in [job for job in self._jobs if job.name in names]:
            now = self._clock.now()
            if now < self._next_run(job):
                continue
            self._ran_at[job.name] = now
            self._waiting.discard(job.name)
            while (counts := job.run()) is not None:
                runs.append(JobRun(job=job.name, at=now, counts=counts))
                if getattr(counts, "finished", True):
                    break
        return runs

    def _next_run(self, job: Job) -> datetime:
        """Return when a job runs next: its interval after its last run began, or immediately."""
        ran_at = self._ran_at.get(job.name)
        return BEGINNING if ran_at is None else ran_at + timedelta(seconds=job.interval_s)

    def _mark_all_due(self) -> None:
        """Mark every job as due once more: something has changed, or is due now."""
        self._waiting = {job.name for job in self._jobs}

    def _deadlines(self, bindings: tuple[Binding, ...]) -> Iterator[datetime]:
        """Yield the instants that rows name."""
        for binding in bindings:
            yield from _deadlines_of(binding)
        for webhook in self._service.webhooks.list():
            yield from self._attempts(webhook.id)

    def _attempts(self, webhook_id: str) -> Iterator[datetime]:
        """Yield when the deliveries of a webhook that wait are tried again."""
        cursor: str | None = None
        while True:
            page = self._service.webhooks.deliveries(webhook_id, state="pending", cursor=cursor, limit=PAGE)
            yield from (delivery.next_at for delivery in page.data)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _contents(self) -> _Contents:
        return _Contents(feed_end=self._service.feed_end(), bindings=tuple(self._service.export_bindings()))


def deliver(service: BindingService) -> DeliverResult | None:
    """Send what is due to the webhooks, wait for every response, and return the counts; None without a webhook."""
    if not service.webhooks.list():
        return None
    from bindings.webhooks.sender import deliver_pending

    wait_until_final(service)
    return deliver_pending(service.runtime)


def _open_jobs(binding: Binding, at: datetime) -> tuple[str, ...]:
    """Return the jobs that may settle what is open about a binding."""
    if binding.state is State.IN_DOUBT:
        return (LOOK.name, RECONCILE.name) if binding.mode is Mode.AXB else (RECONCILE.name,)
    is_unbinding = binding.state is State.ACTIVE and binding.unbind_requested_at is not None
    return (RECOVER.name,) if is_unbinding or binding.is_release_owed(at) else ()


def _deadlines_of(binding: Binding) -> tuple[datetime, ...]:
    match binding.state:
        case State.PENDING | State.IN_DOUBT:
            return binding.send_by, binding.settle_by, binding.held_until
        case State.ACTIVE if binding.expires_at is not None:
            warning = timedelta(seconds=binding.warn_s or 0)
            return binding.expires_at - warning, binding.expires_at
        case _:
            return ()
