"""When the scheduler will act on an open binding: for the `retry_after_s` of `OutcomeUnknown`, and for pages.

The times follow from the settings and from when the jobs last ran. No rule of a job is decided here.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.errors import Busy, OutcomeUnknown
from bindings.store import job_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime

SOONEST_S = 2  # ask no sooner than that


@contextmanager
def add_retry_after(runtime: Runtime) -> Iterator[None]:
    """Give each `OutcomeUnknown` of the block its `retry_after_s`."""
    try:
        yield
    except OutcomeUnknown as unknown:
        unknown.retry_after_s = retry_after_s(runtime, unknown.binding)
        raise


def retry_after_s(runtime: Runtime, binding: Binding) -> int | None:
    """Return after how many seconds to ask for a binding without a clear answer again.

    None if it is in doubt and no scheduler has run recently, or the database is away. Safe to repeat.
    """
    if binding.state is not State.IN_DOUBT:
        return ceil(runtime.settings.recover_interval_s)
    with suppress(Busy):
        return _until_next_scan_s(runtime)
    return None


def _until_next_scan_s(runtime: Runtime) -> int | None:
    scan_at = next_scan(runtime)
    if scan_at is None:
        return None
    return max(SOONEST_S, ceil((scan_at - runtime.database.clock()).total_seconds()))


def next_scan(runtime: Runtime) -> datetime | None:
    """Return when the scheduler will reconcile next, or None if no scheduler has done so recently."""
    database = runtime.database
    last = database.read(job_runs.last_started, "reconcile")
    interval = timedelta(seconds=runtime.settings.reconcile_interval_s)
    if last is None or database.clock() > last + 3 * interval:
        return None
    return last + interval
