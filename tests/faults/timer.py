"""A scheduler in a process of its own, whose wall clock may jump; reports each start of the expire job.

`python -m tests.faults.timer FILE FD`: FILE holds the settings as JSON, and under "wall" the file with the shift
of the wall clock that APScheduler reads. Without "wall" the process runs under libfaketime instead: then SQLite's
deciding clock jumps too, and a run may end at once because that is in doubt. The monotonic clock is not changed,
as a kernel does not change it. Reports go to the pipe FD: libraries print to stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bindings.jobs.registry import EXPIRE
from bindings.jobs.runner import JobRunner
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from tests.faults.clock import SharedClock

if TYPE_CHECKING:
    from bindings.jobs.registry import JobSpec
    from bindings.jobs.run_control import RunControl

PATCHED_MODULES = (
    "apscheduler.schedulers.base",
    "apscheduler.triggers.interval",
    "apscheduler.executors.base",
    "bindings.scheduler",
)
MAX_MEMORY = 3 << 30  # bytes of address space: a scheduler that catches up on a year must not exhaust the machine


def main() -> None:
    """Run until SIGTERM."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    settings = json.loads(Path(sys.argv[1]).read_text())
    wall = settings.pop("wall", None)
    if wall is not None:
        set_wall(SharedClock(Path(wall)))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with BindingService.open(**settings) as service:
        run = JobRunner.run

        def report_and_run(runner: JobRunner, job: JobSpec[Any], control: RunControl | None = None) -> Any:
            if job is EXPIRE:
                report("sweep")
            return run(runner, job, control)

        JobRunner.run = report_and_run  # type: ignore[method-assign, assignment]
        with Scheduler(service) as scheduler:
            while not stop.wait(0.05):
                for name in scheduler.stalled():
                    report(f"stalled:{name}")


def report(event: str) -> None:
    """Write a line with the machine's monotonic clock, which all processes share."""
    os.write(int(sys.argv[2]), f"{time.monotonic():.3f} {event}\n".encode())


def set_wall(clock: SharedClock) -> None:
    """Make APScheduler, and the module that adds its jobs, read the shifted clock."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=clock.shift)

    for name in PATCHED_MODULES:
        module = importlib.import_module(name)
        if hasattr(module, "datetime"):
            vars(module)["datetime"] = Shifted


if __name__ == "__main__":
    main()
