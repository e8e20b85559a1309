"""When the jobs run: APScheduler's timer, a watchdog beside it, and a clean end on SIGTERM.

The timer is in-process and nothing more: it keeps no jobs in the database, elects no leader, and may run in any
number of processes. What a job does, and why it is safe to run twice, is in `jobs`. The watchdog goes by the
monotonic clock, because the timer goes by the wall clock, which may be set back.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from bindings.distribution import install_hint
from bindings.fork_safety import ProcessMark
from bindings.jobs.failure_log import FailureLog
from bindings.jobs.job import Job
from bindings.jobs.registry import JOBS, Runs
from bindings.jobs.run_control import RunControl
from bindings.jobs.runner import JobRunner
from bindings.lifecycle.resolution_times import JITTER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from bindings.lifecycle.runtime import Runtime
    from bindings.service import BindingService

_log = logging.getLogger(__name__)
# Its warnings repeat what the watchdog says; without a handler they would go to the stderr of a host process.
logging.getLogger("apscheduler").addHandler(logging.NullHandler())

ACTOR = "scheduler"
STALLED_AFTER = 3.0  # intervals without a finished run
UNFINISHED_RUNS = 5  # in a row, before a warning about the backlog


class _IntervalTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Fires an interval from now, with jitter, and never for the past.

    APScheduler's own interval trigger builds a list of every missed run: after the wall clock was set a year ahead
    that is thirty million of them, and the timer stops working.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the time of the next run, for APScheduler."""
        since = now if previous_fire_time is None else max(previous_fire_time, now)
        jitter_s = self._interval_s * random.uniform(-JITTER, JITTER)  # noqa: S311 -- not for security
        return since + timedelta(seconds=self._interval_s + jitter_s)


class Scheduler:
    """Runs the jobs on a timer until it is stopped. A context manager.

    The history records what a job does under the actor `scheduler`. Every replica may have a scheduler: some jobs
    are shared by all replicas, the others are claimed by one replica per period. It also sends webhook deliveries;
    `on_deliveries` is called with each result of them (delivered, failed, dead) and its count. `also` are jobs of
    the caller; each must be safe in several replicas at the same time. It runs in the process that made it, and
    not in a forked child.
    """

    def __init__(
        self,
        service: BindingService,
        also: Sequence[Job] = (),
        *,
        on_deliveries: Callable[[str, int], None] | None = None,
    ) -> None:
        runtime = service.as_caller(actor=ACTOR).runtime
        self._jobs = [*scheduled_jobs(runtime), *_delivery_jobs(runtime, on_deliveries), *also]
        self._finished: dict[str, float] = {}
        self._restarted: dict[str, float] = {}
        self._unfinished: Counter[str] = Counter()
        self._failures = FailureLog(_log)
        self._process = ProcessMark()
        self._stopped = threading.Event()
        self._timer = self._new_timer()
        self._watchdog = threading.Thread(target=self._watchdog_loop, name="bindings-watchdog", daemon=True)

    def start(self) -> None:
        """Start the timer: every job runs immediately and then at its interval."""
        self._check_process()
        now = time.monotonic()
        self._finished = {job.name: now for job in self._jobs}
        self._restarted = dict(self._finished)
        self._timer.start()
        self._watchdog.start()

    def request_stop(self) -> None:
        """Let the jobs that are running end after their current page or batch. Callable from any thread."""
        for job in self._jobs:
            job.control.stop()

    def stop(self) -> None:
        """Let the running jobs end, and wait for them. Safe to repeat; without effect in a child."""
        if not self._process.is_this_process or self._stopped.is_set():
            return
        self.request_stop()
        self._stopped.set()
        self._timer.shutdown(wait=True)
        self._watchdog.join()
        for job in self._jobs:
            job.stop()

    def ages_s(self) -> dict[str, float]:
        """Return the seconds since each job last finished in this process (since the start, if it has not)."""
        self._check_process()
        now = time.monotonic()
        return {name: now - finished for name, finished in self._finished.items()}

    def progress_ages_s(self) -> dict[str, float]:
        """Return the seconds since each job last completed a page, a batch or a run."""
        self._check_process()
        now = time.monotonic()
        return {
            job.name: now - max(self._finished.get(job.name, now), job.control.progressed_at) for job in self._jobs
        }

    def intervals_s(self) -> dict[str, float]:
        """Return how often each job runs, in seconds."""
        return {job.name: job.interval_s for job in self._jobs}

    def stalled(self) -> list[str]:
        """Return the jobs without progress for three intervals; readiness is red while there is one.

        A run that takes long is not stalled as long as it completes pages or batches.
        """
        ages = self.progress_ages_s()
        return [job.name for job in self._jobs if ages[job.name] > STALLED_AFTER * max(job.interval_s, 1.0)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check_process(self) -> None:
        self._process.check("this scheduler", "make a new Scheduler in this process")

    def _new_timer(self) -> BackgroundScheduler:
        timer = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(len(self._jobs))},
            # A late run still runs, once; by default APScheduler drops it after one second.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
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
        """Run a job. If it used up its time budget, run it again immediately."""
        while not self._run_once(job) and not self._stopped.is_set():
            pass

    def _run_once(self, job: Job) -> bool:
        """Run a job and return True if it completed its work."""
        start = time.monotonic()
        try:
            counts = job.run()
        except Exception as error:  # noqa: BLE001 -- the timer would log a traceback each time
            self._failures.failed(job.name, error)
            return True
        self._failures.succeeded(job.name)
        self._finished[job.name] = time.monotonic()
        _log.debug("%s: %s in %.3f s", job.name, counts, time.monotonic() - start)
        if counts is None:
            return True  # another replica ran this period and reports its own backlog
        if getattr(counts, "finished", True):
            self._unfinished[job.name] = 0
            return True
        self._unfinished[job.name] += 1
        in_a_row = self._unfinished[job.name]
        if in_a_row % UNFINISHED_RUNS == 0:
            _log.warning("%s: %d runs in a row ran out of time; the backlog grows", job.name, in_a_row)
        return False

    def _watchdog_loop(self) -> None:
        """Reschedule stalled jobs: after the wall clock is set back, APScheduler waits for the old time again."""
        by_name = {job.name: job for job in self._jobs}
        while not self._stopped.wait(min(job.interval_s for job in self._jobs)):
            now = time.monotonic()
            for name in self.stalled():
                job = by_name[name]
                if now - self._restarted[name] > STALLED_AFTER * job.interval_s:
                    self._restarted[name] = now
                    self._failures.failed(name, f"no run has finished for {STALLED_AFTER:.0f} intervals")
                    self._add(self._timer, job)


def run(service: BindingService, stop: threading.Event) -> None:
    """Run the scheduler until `stop` is set, then wait for the running jobs."""
    with Scheduler(service):
        stop.wait()
        _log.info("scheduler: stopping; the jobs that are running end after their current page or batch")


def scheduled_jobs(runtime: Runtime) -> list[Job]:
    """Return the jobs of `registry.JOBS` for one runtime; without an account, none that reads its list."""
    runner = JobRunner(runtime)
    jobs = []
    for spec in JOBS:
        if spec.reads_list and runtime.client is None:
            continue
        interval_s, control = spec.interval_s(runtime.settings), RunControl()
        run_job = (
            partial(runner.run, spec, control)
            if spec.runs is Runs.EVERY_REPLICA
            else partial(runner.run_once_per_period, spec, interval_s, control)
        )
        jobs.append(Job(name=spec.name, interval_s=interval_s, run=run_job, control=control))
    return jobs


def _delivery_jobs(runtime: Runtime, on_results: Callable[[str, int], None] | None) -> list[Job]:
    """Return the job that sends webhook deliveries; none, with a warning, if the signing library is missing."""
    if find_spec("standardwebhooks") is None:
        hint = install_hint("server")
        _log.warning("this process sends no webhook deliveries, the extra `server` is not installed: %s", hint)
        return []
    from bindings.webhooks import sender

    return [sender.job(runtime, on_results=on_results)]
