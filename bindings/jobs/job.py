"""What the scheduler runs: a job, its name and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One pass and how often it runs, in seconds; `stop` ends what a pass may leave running, in bounded time."""

    name: str
    interval_s: float
    run: Callable[[], object]
    stop: Callable[[], object] = lambda: None
