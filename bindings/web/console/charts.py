"""Bar charts and sparklines as numbers that a template draws. Pure functions.

A page never depends on the drawing: a chart also carries its totals in words, and the page shows the same counts
as a table.
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

GAP = 0.15  # between bars, as a fraction of the width of a step
MIN_HEIGHT = 2.0  # per cent of the chart: a count of one stays visible next to ten thousand


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """The bar of one step: `x`, `width` and `height` in per cent of the chart."""

    x: float
    width: float
    height: float
    count: int
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Counts per step. `tone` names the colour: good, calm, warn or bad. `peak_at` is None if all counts are 0."""

    title: str
    tone: str
    unit: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, datetime], ...]
    total: int
    peak: int
    peak_at: datetime | None
    counts: tuple[int, ...]


def chart(title: str, tone: str, statistics: EventStatistics, counts: Sequence[int]) -> Chart:
    """Build a chart of `counts`, which has one count for each step of the statistics."""
    steps, step_s = statistics.steps, statistics.span.step_s
    axis = Axis(since=steps[0], until=steps[-1] + timedelta(seconds=step_s))
    step_width = 100 / len(steps)
    peak = max(counts)
    bars = tuple(
        Bar(
            x=round(index * step_width + step_width * GAP / 2, 3),
            width=round(step_width * (1 - GAP), 3),
            height=round(max(MIN_HEIGHT, 100 * count / peak), 2),
            count=count,
            at=at,
        )
        for index, (at, count) in enumerate(zip(steps, counts, strict=True))
        if count
    )
    return Chart(
        title=title,
        tone=tone,
        unit=unit(step_s),
        bars=bars,
        # A label near an edge would be cut off.
        ticks=tuple(tick for tick in axis.ticks() if 8 < tick[0] < 92),  # noqa: PLR2004 -- per cent of the width
        total=sum(counts),
        peak=peak,
        peak_at=steps[list(counts).index(peak)] if peak else None,
        counts=tuple(counts),
    )


def unit(step_s: int) -> str:
    """Return the name of the period that one bar covers."""
    return {60: "minute", 3_600: "hour"}.get(step_s, f"{step_s // 3_600} hours")


def sparkline_points(levels: Sequence[tuple[datetime, int]], top: int) -> str:
    """Return the points of an SVG polyline through `levels`, or "" for fewer than two levels.

    The box is 100 by 30; `top` is the level at its upper edge.
    """
    if len(levels) < 2 or top <= 0:  # noqa: PLR2004 -- a line has two ends
        return ""
    axis = Axis(since=levels[0][0], until=levels[-1][0])
    return " ".join(f"{axis.x(at):g},{30 - 28 * min(1.0, level / top):.1f}" for at, level in levels)
