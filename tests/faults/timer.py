"""A scheduler in a process of its own, whose wall clock may be made to jump; prints a line for each sweep.

`python -m tests.faults.timer FILE`, where FILE holds the settings as JSON and, under "wall", the file of the shift
by which APScheduler reads the wall clock wrong. Without "wall" the process is run under libfaketime instead. The
monotonic clock is left alone, as a kernel leaves it alone.
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
from typing import TYPE_CHECKING, Self

from bindings.jobs.maintenance import Maintenance
from bindings.scheduler import Scheduler
from bindings.service import BindingService
from tests.faults.clock import SharedClock

if TYPE_CHECKING:
    from bindings.jobs.expire import ExpireResult

READERS = (
    "apscheduler.schedulers.base",
    "apscheduler.triggers.interval",
    "apscheduler.executors.base",
    "bindings.scheduler",
)
LARGEST = 3 << 30  # bytes of address space: a timer that catches up on a year must not take the machine along


def main() -> None:
    """Run until SIGTERM."""
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
    given = json.loads(Path(sys.argv[1]).read_text())
    wall = given.pop("wall", None)
    if wall is not None:
        set_wall(SharedClock(Path(wall)))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with BindingService.open(**given) as service:
        expire_due = Maintenance.expire_due

        def report_and_expire(maintenance: Maintenance) -> ExpireResult:
            say("sweep")
            return expire_due(maintenance)

        Maintenance.expire_due = report_and_expire  # type: ignore[method-assign, assignment]
        with Scheduler(service) as scheduler:
            while not stop.wait(0.05):
                for name in scheduler.stalled():
                    say(f"stalled:{name}")


def say(what: str) -> None:
    """A line with the machine's monotonic clock, which all processes share."""
    os.write(1, f"{time.monotonic():.3f} {what}\n".encode())


def set_wall(clock: SharedClock) -> None:
    """Make APScheduler, and who adds its jobs, read the shifted clock."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=clock.shift)

    for name in READERS:
        module = importlib.import_module(name)
        if hasattr(module, "datetime"):
            vars(module)["datetime"] = Shifted


if __name__ == "__main__":
    main()
