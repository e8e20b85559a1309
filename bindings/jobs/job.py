"""A job as the scheduler runs it: a name, an interval and a function.

`registry.JobSpec` describes a job of the package; the scheduler makes a `Job` of it for one runtime. `webhooks`
makes its `Job` itself. No timer here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bindings.jobs.run_control import RunControl

if TYPE_CHECKING:
    from collections.abc import Callable


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A function and how often it runs, in seconds.

    `run` returns the counts of one run, or None if another replica has run this period. Counts whose `finished` is
    False make the scheduler run the job again immediately. `control` tells a run to stop, and whether it makes
    progress; `stop` ends, in bounded time, what a run left running.
    """

    name: str
    interval_s: float
    run: Callable[[], object]
    stop: Callable[[], object] = _do_nothing
    control: RunControl = field(default_factory=RunControl)
