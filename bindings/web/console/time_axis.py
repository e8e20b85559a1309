"""The time axis of the console: positions of instants and bindings in per cent of the width. Pure functions.

A drawing in per cents needs neither a script nor inline styles, which the content security policy forbids.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.domain.trace import earliest_end, earliest_start
from bindings.web.console.time_ticks import time_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.web.console.time_ticks import Tick
    from bindings.web.console.time_zones import Zone

MIN_WIDTH = 0.35  # per cent: a shorter binding stays visible
MAX_TICKS = 7
LABEL_MARGIN = 3.0  # per cent of the width: a label at an edge would be cut off


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A binding on the axis: `x` and `width` of its certain lifetime, then `tail` until its phones are free."""

    x: float
    width: float
    tail_x: float
    tail: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """The period that an axis shows."""

    since: datetime
    until: datetime

    def x(self, at: datetime) -> float:
        """Return the position of an instant, from 0 to 100."""
        return round(min(100.0, max(0.0, 100 * ((at - self.since) / (self.until - self.since)))), 2)

    def bar(self, binding: Binding) -> Bar:
        """Return the position of a binding."""
        start, end = self.x(earliest_start(binding)), self.x(earliest_end(binding))
        free = self.x(phones_free_at(binding))
        width = max(MIN_WIDTH, end - start)
        return Bar(x=min(start, 100 - MIN_WIDTH), width=width, tail_x=start + width, tail=max(0.0, free - end))

    def ticks(self, zone: Zone) -> tuple[Tick, ...]:
        """Return labelled instants along the axis, on round times of the zone."""
        return time_ticks(self.since, self.until, zone, most=MAX_TICKS, margin=LABEL_MARGIN)


def axis_for(bindings: Sequence[Binding]) -> Axis | None:
    """Return an axis that covers all of these bindings, or None if there are none."""
    if not bindings:
        return None
    since, until = min(map(earliest_start, bindings)), max(map(phones_free_at, bindings))
    margin = max((until - since) * 0.02, timedelta(seconds=1))
    return Axis(since=since - margin, until=until + margin)


def phones_free_at(binding: Binding) -> datetime:
    """Return when the phones are free again; for a failed binding, when the failure was recorded."""
    return binding.ended_at or binding.held_until if binding.state is State.FAILED else binding.held_until
