"""When the scheduler will act on an open binding: for the `retry_after_s` of `OutcomeUnknown`, and for pages.

The times follow from the settings and from when the jobs last ran. No rule of a job is decided here.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode, State
from bindings.errors import Busy, OutcomeUnknown
from bindings.store import job_runs

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime
    from bindings.settings import Settings

SOONEST_S = 2  # ask no sooner than that
LOOK_PAGES = 10  # of a list that one look reads at most
LONGEST_WAIT_S = 60.0  # between two looks at a list
JITTER = 0.1  # of the interval of a job, so that replicas do not run in step


class RetryAfter:
    """Gives an `OutcomeUnknown` of a `with` block its `retry_after_s`."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OutcomeUnknown):
            error.retry_after_s = retry_after_s(self._runtime, error.binding)


def retry_after_s(runtime: Runtime, binding: Binding) -> int | None:
    """Return after how many seconds to ask for a binding without a clear answer again.

    None if it is in doubt and no scheduler has run recently, or the database is away. Safe to repeat.
    """
    if binding.state is not State.IN_DOUBT:
        return ceil(runtime.settings.recover_interval_s)
    with suppress(Busy):
        scan_at = next_scan(runtime)
        if scan_at is not None:
            now = runtime.database.clock()
            due_at = min(scan_at, _next_look_result(runtime.settings, binding, now) or scan_at)
            return max(SOONEST_S, ceil((due_at - now).total_seconds()))
    return None


def is_looked_for(settings: Settings, binding: Binding) -> bool:
    """Return whether a look, and not only a whole scan, may adopt a binding in doubt."""
    return settings.on_doubt == "adopt" and binding.mode is Mode.AXB


def first_look_result(settings: Settings, binding: Binding) -> datetime:
    """Return by when the first look at the list has its result, unless the list was looked at just before."""
    reading_s = LOOK_PAGES / settings.scan_calls_per_s
    return binding.settle_by + timedelta(seconds=settings.look_interval_s * (1 + JITTER) + reading_s)


def _next_look_result(settings: Settings, doubt: Binding, now: datetime) -> datetime | None:
    """Return when a look may have adopted a doubt; None if none does. Looks follow at growing distances."""
    if not is_looked_for(settings, doubt):
        return None
    first = first_look_result(settings, doubt)
    passed_s = (now - doubt.settle_by).total_seconds()
    return first if now < first else now + timedelta(seconds=min(passed_s, LONGEST_WAIT_S))


def next_scan(runtime: Runtime) -> datetime | None:
    """Return when the scheduler will reconcile next, or None if no scheduler has done so recently."""
    database = runtime.database
    last = database.read(job_runs.last_started, "reconcile")
    interval = timedelta(seconds=runtime.settings.reconcile_interval_s)
    if last is None or database.clock() > last + 3 * interval:
        return None
    return last + interval
