"""When the passes run: APScheduler's timer, a watchdog beside it, and a clean end on SIGTERM.

The timer is in-process and nothing more: it keeps no jobs in the database, elects nobody, and may run in any
number of processes. What a pass does, and why it is safe to run twice, stands in bindings.passes. The watchdog
goes by the monotonic clock, because the timer goes by the wall clock, which may be set back.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from bindings.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from apscheduler.events import JobEvent

    from bindings.service import BindingService

_log = logging.getLogger(__name__)

ACTOR = "scheduler"
RECOVER_INTERVAL_S = 10.0
RETENTION_INTERVAL_S = 60.0
POOLS_INTERVAL_S = 60.0
TALLY_INTERVAL_S = 10.0
JITTER = 0.1  # of the interval, so that replicas do not beat in step
STALLED_AFTER = 3.0  # intervals without a finished pass
UNFINISHED_PASSES = 5  # in a row, before the backlog is worth a warning


class _IntervalTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Fires an interval from now, with jitter, and never for the past.

    APScheduler's own interval trigger makes a list of every run that was missed: after the wall clock was set a
    year ahead that is thirty million of them, and the timer stands still behind it.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next run, as APScheduler asks for it."""
        since = now if previous_fire_time is None else max(previous_fire_time, now)
        jitter_s = self._interval_s * random.uniform(-JITTER, JITTER)  # noqa: S311 -- to keep out of step
        return since + timedelta(seconds=self._interval_s + jitter_s)


class Scheduler:
    """Runs the passes on a timer until it is stopped. A context manager.

    What a pass writes into the history stands there as done by `scheduler`, whoever started the process. Every
    replica may have one: expire and warn are shared work, and the others take a row per period.
    `also` are jobs of layers above this one; each must be safe beside its like in another replica.
    """

    def __init__(self, service: BindingService, also: Sequence[Job] = ()) -> None:
        self._jobs = [*_jobs(service.as_caller(actor=ACTOR)), *also]
        self._finished: dict[str, float] = {}
        self._restarted: dict[str, float] = {}
        self._unfinished: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._timer = self._new_timer()
        self._watchdog = threading.Thread(target=self._watchdog_loop, name="bindings-watchdog", daemon=True)

    def start(self) -> None:
        """Start the timer: every pass runs at once and then at its interval."""
        now = time.monotonic()
        self._finished = {job.name: now for job in self._jobs}
        self._restarted = dict(self._finished)
        self._timer.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Let the passes that are running come to their end, and start no more. Safe to repeat."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._timer.shutdown(wait=True)
        self._watchdog.join()
        for job in self._jobs:
            job.stop()

    def ages_s(self) -> dict[str, float]:
        """Seconds since each pass last finished in this process (since the start, where none has)."""
        now = time.monotonic()
        return {task: now - finished for task, finished in self._finished.items()}

    def intervals_s(self) -> dict[str, float]:
        """How often each pass runs, in seconds."""
        return {job.name: job.interval_s for job in self._jobs}

    def stalled(self) -> list[str]:
        """The passes that have not finished for three intervals: readiness is red while there is one."""
        ages = self.ages_s()
        return [job.name for job in self._jobs if ages[job.name] > STALLED_AFTER * max(job.interval_s, 1.0)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _new_timer(self) -> BackgroundScheduler:
        timer = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(len(self._jobs))},
            # A late run is run once, however late: the default drops it after one second.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        timer.add_listener(_report, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        for job in self._jobs:
            self._add(timer, job)
        return timer

    def _add(self, timer: BackgroundScheduler, job: Job) -> None:
        timer.add_job(
            self._run,
            _IntervalTrigger(job.interval_s),
            args=[job],
            id=job.name,
            replace_existing=True,
            next_run_time=datetime.now(UTC),  # the default is to wait for one interval first
        )

    def _run(self, job: Job) -> None:
        """Run a pass; again at once where its time ended before its work did: a backlog waits for no timer."""
        while not self._run_once(job) and not self._stopped.is_set():
            pass

    def _run_once(self, job: Job) -> bool:
        """Whether the pass came to its end."""
        began = time.monotonic()
        counts = job.run()
        self._finished[job.name] = time.monotonic()
        _log.debug("%s: %s in %.3f s", job.name, counts, time.monotonic() - began)
        if counts is None:
            return True  # another run has this period already; what it left is its own to tell
        if getattr(counts, "finished", True):
            self._unfinished[job.name] = 0
            return True
        self._unfinished[job.name] += 1
        in_a_row = self._unfinished[job.name]
        if in_a_row % UNFINISHED_PASSES == 0:
            _log.warning("%s: %d passes in a row ran out of time; a backlog grows", job.name, in_a_row)
        return False

    def _watchdog_loop(self) -> None:
        """Schedule anew what stands still: a timer waits for ever for a wall time that was set back."""
        by_task = {job.name: job for job in self._jobs}
        while not self._stopped.wait(min(job.interval_s for job in self._jobs)):
            now = time.monotonic()
            for task in self.stalled():
                job = by_task[task]
                if now - self._restarted[task] > STALLED_AFTER * job.interval_s:
                    self._restarted[task] = now
                    _log.warning("%s: no pass has finished for %.0f s", task, self.ages_s()[task])
                    self._add(self._timer, job)


def run(service: BindingService, also: Sequence[Job] = ()) -> None:
    """Run the scheduler until SIGTERM or SIGINT, then drain. Call it from the main thread."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Scheduler(service, also):
        stop.wait()
        _log.info("scheduler: asked to stop; waiting for the passes that are running")


def _jobs(service: BindingService) -> list[Job]:
    config = service.settings
    jobs = [
        Job(name="expire", interval_s=config.sweep_interval_s, run=service.sweep),
        Job(name="warn", interval_s=config.sweep_interval_s, run=service.announce),
        Job(
            name="recover",
            interval_s=RECOVER_INTERVAL_S,
            run=lambda: service.run_once_per_period("recover", RECOVER_INTERVAL_S, service.recover),
        ),
        Job(
            name="pools",
            interval_s=POOLS_INTERVAL_S,
            run=lambda: service.run_once_per_period("pools", POOLS_INTERVAL_S, service.count_pools),
        ),
        Job(
            name="tally",
            interval_s=TALLY_INTERVAL_S,
            run=lambda: service.run_once_per_period("tally", TALLY_INTERVAL_S, service.tally),
        ),
    ]
    jobs.append(
        Job(
            name="retention",
            interval_s=RETENTION_INTERVAL_S,
            run=lambda: service.run_once_per_period("retention", RETENTION_INTERVAL_S, service.apply_retention),
        )
    )
    if service.calls_provider:
        interval_s = config.reconcile_interval_s
        run_once = lambda: service.run_once_per_period("reconcile", interval_s, service.reconcile)  # noqa: E731
        jobs.append(Job(name="reconcile", interval_s=interval_s, run=run_once))
    return jobs


def _report(event: JobEvent) -> None:
    if event.code == EVENT_JOB_ERROR:
        # The text of an exception may carry a value; its type and the place are enough to find it.
        _log.error("%s: failed with %s; it runs again", event.job_id, type(event.exception).__name__)
    else:
        _log.debug("%s: the previous run has not ended yet", event.job_id)  # the watchdog warns
