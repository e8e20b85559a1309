"""Instants on a horizontal axis, in per cent of its width. Pure.

A drawing made of per cents needs no script and no style of its own, which the pages' policy would refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.domain.trace import earliest_end, earliest_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Binding

THINNEST = 0.35  # per cent: what is shorter is still to be seen
FEWEST, MOST = 3, 7
STEPS_S = (1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A binding on the axis: `x`, `width` where it was there for certain, `tail` until the phones were free."""

    x: float
    width: float
    tail_x: float
    tail: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A stretch of time."""

    since: datetime
    until: datetime

    def x(self, at: datetime) -> float:
        """Where an instant lies, from 0 to 100."""
        whole = (self.until - self.since).total_seconds()
        return round(min(100.0, max(0.0, 100 * (at - self.since).total_seconds() / whole)), 2)

    def bar(self, binding: Binding) -> Bar:
        """A binding's place."""
        start, end = self.x(earliest_start(binding)), self.x(earliest_end(binding))
        free = self.x(phones_free_at(binding))
        width = max(THINNEST, end - start)
        return Bar(x=min(start, 100 - THINNEST), width=width, tail_x=start + width, tail=max(0.0, free - end))

    def ticks(self) -> list[tuple[float, datetime]]:
        """Round instants along the axis."""
        whole = (self.until - self.since).total_seconds()
        step = next(
            (each for each in STEPS_S if whole / each <= MOST), STEPS_S[-1] * max(1, int(whole / 604_800 / MOST))
        )
        first = self.since.timestamp() // step * step + step
        at = datetime.fromtimestamp(first, self.since.tzinfo)
        found = []
        while at < self.until:
            found.append((self.x(at), at))
            at += timedelta(seconds=step)
        return found


def axis_for(found: Sequence[Binding]) -> Axis | None:
    """The axis on which all of these fit; None where there are none."""
    if not found:
        return None
    since, until = min(map(earliest_start, found)), max(map(phones_free_at, found))
    margin = max((until - since) * 0.02, timedelta(seconds=1))
    return Axis(since=since - margin, until=until + margin)


def phones_free_at(binding: Binding) -> datetime:
    """When the phones were free again: for one that failed when that was known."""
    return binding.ended_at or binding.held_until if binding.state is State.FAILED else binding.held_until
