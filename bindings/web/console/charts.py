"""Bar charts and sparklines as numbers that a template draws. Pure functions.

A page never depends on the drawing: a chart also carries its totals in words, and the page shows the same counts
as a table. Charts that are compared have one scale. A step that is not counted yet is a gap, not a zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from bindings.store.statistics import LEVEL_EVERY_S
from bindings.web.console.time_axis import Axis
from bindings.web.console.time_ticks import time_ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from bindings.monitoring.statistics import EventStatistics
    from bindings.web.console.time_ticks import Tick
    from bindings.web.console.time_zones import Zone

GAP = 0.15  # between bars, as a fraction of the width of a step
MIN_HEIGHT = 2.0  # per cent of the chart: a count of one stays visible next to ten thousand
MAX_TICKS = 5
LABEL_MARGIN = 8.0  # per cent of the width: a label near an edge would be cut off
ROUND = (1, 2, 5)
UNITS = {60: "minute", 3_600: "hour", 86_400: "day", 604_800: "week"}


class SeriesToDraw(NamedTuple):
    """Counts to draw, one for each step. `tone` names the colour: good, calm, warn or bad."""

    title: str
    tone: str
    counts: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """The bar of a step (the first is 0), all in per cent of the chart; `count` None is a gap."""

    x: float
    width: float
    height: float
    count: int | None
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Counts per step; None is a step that is not counted yet. `peak_at` is None if all counts are 0.

    `scale` are the values of the horizontal lines, the highest first, down to 0.
    """

    title: str
    tone: str
    unit: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    scale: tuple[int, ...]
    total: int
    peak: int
    peak_at: datetime | None
    counts: tuple[int | None, ...]


def charts(statistics: EventStatistics, zone: Zone, series: Sequence[SeriesToDraw]) -> list[Chart]:
    """Return a chart of each series, all of one scale."""
    scale = scale_for(max((max(entry.counts) for entry in series), default=0))
    return [_chart(statistics, zone, entry, scale) for entry in series]


def _chart(statistics: EventStatistics, zone: Zone, series: SeriesToDraw, scale: tuple[int, ...]) -> Chart:
    steps, step_s, counts = statistics.steps, statistics.range.step_s, series.counts
    counted_to = statistics.counted_to
    counted = tuple(
        count if count or (counted_to is not None and at < counted_to) else None
        for at, count in zip(steps, counts, strict=True)
    )
    axis = Axis(since=steps[0], until=steps[-1] + timedelta(seconds=step_s))
    peak = max(counts)
    return Chart(
        title=series.title,
        tone=series.tone,
        unit=UNITS.get(step_s, f"{step_s // 3_600} hours"),
        bars=tuple(_bars(counted, scale[0])),
        ticks=time_ticks(axis.since, axis.until, zone, most=MAX_TICKS, margin=LABEL_MARGIN),
        scale=scale,
        total=sum(counts),
        peak=peak,
        peak_at=steps[list(counts).index(peak)] if peak else None,
        counts=counted,
    )


def _bars(counts: Sequence[int | None], top: int) -> Iterable[Bar]:
    width = 100 / len(counts)
    for index, count in enumerate(counts):
        if count != 0:
            yield Bar(
                x=round(index * width + width * GAP / 2, 3),
                width=round(width * (1 - GAP), 3),
                height=100 if count is None else round(max(MIN_HEIGHT, 100 * count / top), 2),
                count=count,
                step=index,
            )


def scale_for(peak: int) -> tuple[int, ...]:
    """Return the values of the lines of a chart: a round one at or above the peak, its half if whole, and 0."""
    power = 10 ** (len(str(max(1, peak))) - 1)
    top = next(factor * power for factor in (*ROUND, 10) if factor * power >= peak)
    return (top, top // 2, 0) if top % 2 == 0 else (top, 0)


def sparklines(levels: Sequence[tuple[datetime, int]], top: int) -> list[str]:
    """Return the points of SVG polylines through `levels`, in a box of 100 by 30 whose upper edge is `top`.

    Where levels are missing there is a gap between two lines. A line has at least two levels.
    """
    if len(levels) < 2 or top <= 0:  # noqa: PLR2004 -- a line has two ends
        return []
    axis = Axis(since=levels[0][0], until=levels[-1][0])
    lines: list[list[str]] = [[]]
    before = levels[0][0]
    for at, level in levels:
        if at - before > timedelta(seconds=2 * LEVEL_EVERY_S):
            lines.append([])
        lines[-1].append(f"{axis.x(at):g},{30 - 28 * min(1.0, level / top):.1f}")
        before = at
    return [" ".join(points) for points in lines if len(points) > 1]
