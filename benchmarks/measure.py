"""What a measurement is: a target, rounds that interleave both sides, and a ratio with its spread.

A few targets are figures of their own (a p99 in milliseconds): they have a value instead of rounds. No SQL and
no product here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.plot import Plot


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A line of the targets: `id`, what is measured, and the bound on ours / raw, or on a figure in `unit`.

    Without a bound it is told for comparison only.
    """

    id: str
    what: str
    bound: float | None = None
    at_most: bool = True
    unit: str = "x"

    def __str__(self) -> str:
        return "-" if self.bound is None else f"{'<=' if self.at_most else '>='} {self.bound:,g} {self.unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One side of one round: the figure that is compared, and this process's CPU seconds per operation."""

    figure: float
    cpu_s: float


Round = tuple[Sample, Sample]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A measured target. With neither rounds nor a value it was not measured, and `note` says why."""

    target: Target
    rounds: tuple[Round, ...] = ()
    value: float | None = None
    note: str = ""
    holds: bool = True
    plot: Plot | None = None

    @property
    def figure(self) -> float | None:
        """What is compared with the bound."""
        return self.ratio if self.value is None else self.value

    @property
    def ratio(self) -> float | None:
        """The ratio of medians, ours to raw."""
        if not self.rounds:
            return None
        return median(ours.figure for ours, _ in self.rounds) / median(raw.figure for _, raw in self.rounds)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The quartiles of the ratios of single rounds."""
        ratios = [ours.figure / raw.figure for ours, raw in self.rounds]
        if len(ratios) < 2:
            return None
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def verdict(self) -> str:
        """pass, MISS, or - where nothing was measured."""
        if not self.holds:
            return "MISS"
        figure, bound = self.figure, self.target.bound
        if figure is None or bound is None:
            return "-"
        met = figure <= bound if self.target.at_most else figure >= bound
        return "pass" if met else "MISS"

    def as_json(self) -> dict[str, Any]:
        """Everything, the single samples too."""
        return {
            "target": self.target.id,
            "what": self.target.what,
            "bound": str(self.target),
            "ratio": self.ratio,
            "value": self.value,
            "unit": self.target.unit,
            "spread": self.spread,
            "verdict": self.verdict,
            "note": self.note,
            "ours": [[ours.figure, ours.cpu_s] for ours, _ in self.rounds],
            "raw": [[raw.figure, raw.cpu_s] for _, raw in self.rounds],
            "plot": None if self.plot is None else self.plot.as_json(),
        }


def interleave(rounds: int, ours: Callable[[int], Sample], raw: Callable[[int], Sample]) -> tuple[Round, ...]:
    """Run both sides in turn, each round in the other order: what one warms up helps both alike."""
    measured: list[Round] = []
    for number in range(rounds):
        if number % 2:
            theirs = raw(number)
            measured.append((ours(number), theirs))
        else:
            mine = ours(number)
            measured.append((mine, raw(number)))
    return tuple(measured)


def timed(work: Callable[[Any], object], arguments: Sequence[Any]) -> Sample:
    """Seconds per operation, and CPU seconds of this process per operation."""
    cpu, began = time.process_time(), time.perf_counter()
    for argument in arguments:
        work(argument)
    count = len(arguments)
    return Sample(figure=(time.perf_counter() - began) / count, cpu_s=(time.process_time() - cpu) / count)


def p99(figures: Sequence[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * 0.99))]


def typical(rounds: Sequence[Round]) -> tuple[Sample, Sample]:
    """The medians of both sides."""
    ours, raw = (
        Sample(
            figure=median(both[side].figure for both in rounds),
            cpu_s=median(both[side].cpu_s for both in rounds),
        )
        for side in (0, 1)
    )
    return ours, raw


def microseconds(rounds: Sequence[Round]) -> str:
    """A note for figures that are seconds per operation."""
    ours, raw = typical(rounds)
    wall = f"{ours.figure * 1e6:,.0f} us against {raw.figure * 1e6:,.0f}"
    return f"{wall}; CPU {ours.cpu_s * 1e6:,.0f} against {raw.cpu_s * 1e6:,.0f}"


def per_second(rounds: Sequence[Round], unit: str) -> str:
    """A note for figures that are operations per second."""
    ours, raw = typical(rounds)
    wall = f"{ours.figure:,.0f} {unit}/s against {raw.figure:,.0f}"
    return f"{wall}; CPU of the client {ours.cpu_s * 1e3:.3f} ms each against {raw.cpu_s * 1e3:.3f}"


def table(results: Sequence[Result]) -> str:
    """The results as text, a line each."""
    head = ("id", "what", "target", "measured", "quartiles", "", "ours against raw")
    lines = [head, *(_line(result) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _line(result: Result) -> tuple[str, ...]:
    figure, spread = result.figure, result.spread
    return (
        result.target.id,
        result.target.what,
        str(result.target),
        "-" if figure is None else f"{figure:,.{0 if figure >= 1_000 else 2}f} {result.target.unit}",
        "-" if spread is None else f"{spread[0]:.2f}-{spread[1]:.2f}",
        result.verdict,
        result.note,
    )
