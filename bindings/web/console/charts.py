"""Bars over time, as numbers that a template draws. Pure.

A chart is whole without its drawing: `says` tells what it shows in words, and the page has its table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.web.console.time_axis import Axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.monitoring.statistics import EventStatistics

GAP = 0.15  # of a bar's width
LOWEST = 2.0  # per cent of the height: one of ten thousand is still to be seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One step: `x`, `width` and `height` in per cent; the height counts from the ground."""

    x: float
    width: float
    height: float
    count: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Counts step by step. `tone` is good, calm, warn or bad."""

    title: str
    tone: str
    unit: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, datetime], ...]
    total: int
    peak: int
    peak_at: datetime | None
    counts: tuple[int, ...]


def chart(title: str, tone: str, figures: EventStatistics, counts: Sequence[int]) -> Chart:
    """A chart of `counts`, one for each step of the figures."""
    steps, step_s = figures.steps, figures.span.step_s
    axis = Axis(since=steps[0], until=steps[-1] + timedelta(seconds=step_s))
    wide = 100 / len(steps)
    peak = max(counts)
    bars = tuple(
        Bar(
            x=round(number * wide + wide * GAP / 2, 3),
            width=round(wide * (1 - GAP), 3),
            height=round(max(LOWEST, 100 * count / peak), 2),
            count=count,
            at=at,
        )
        for number, (at, count) in enumerate(zip(steps, counts, strict=True))
        if count
    )
    return Chart(
        title=title,
        tone=tone,
        unit=unit(step_s),
        bars=bars,
        ticks=tuple(tick for tick in axis.ticks() if 8 < tick[0] < 92),  # noqa: PLR2004 -- no label is cut off
        total=sum(counts),
        peak=peak,
        peak_at=steps[list(counts).index(peak)] if peak else None,
        counts=tuple(counts),
    )


def unit(step_s: int) -> str:
    """What one bar stands for."""
    return {60: "minute", 3_600: "hour"}.get(step_s, f"{step_s // 3_600} hours")


def sparkline_points(levels: Sequence[tuple[datetime, int]], top: int) -> str:
    """The points of a line through levels, for an SVG polyline in a box of 100 by 30; "" for less than two."""
    if len(levels) < 2 or top <= 0:  # noqa: PLR2004 -- a line has two ends
        return ""
    axis = Axis(since=levels[0][0], until=levels[-1][0])
    return " ".join(f"{axis.x(at):g},{30 - 28 * min(1.0, live / top):.1f}" for at, live in levels)
