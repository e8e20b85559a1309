"""Targets, interleaved rounds of product and baseline, results with ratio and spread, and the table of results.

A few targets are single figures (a p99 in milliseconds): their results have a value instead of rounds. This module
contains no SQL and does not use the product.
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
    """A target: `id`, a title, and a bound on the ratio product / baseline, or on a figure in `unit`.

    A target without a bound is shown for comparison only.
    """

    id: str
    title: str
    bound: float | None = None
    at_most: bool = True
    unit: str = "x"

    def __str__(self) -> str:
        return "-" if self.bound is None else f"{'<=' if self.at_most else '>='} {self.bound:,g} {self.unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One side of one round: the compared figure, and the CPU seconds of this process per operation."""

    figure: float
    cpu_s: float


Round = tuple[Sample, Sample]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a target. Without rounds and value it was not measured, and `note` gives the reason.

    `conditions_met` is False if a condition other than the bound failed.
    """

    target: Target
    rounds: tuple[Round, ...] = ()
    value: float | None = None
    note: str = ""
    conditions_met: bool = True
    plot: Plot | None = None

    @property
    def figure(self) -> float | None:
        """The value or ratio that is compared with the bound; None if not measured."""
        return self.ratio if self.value is None else self.value

    @property
    def ratio(self) -> float | None:
        """The ratio of medians, product to baseline; None without rounds."""
        if not self.rounds:
            return None
        return median(product.figure for product, _ in self.rounds) / median(
            baseline.figure for _, baseline in self.rounds
        )

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lower and upper quartile of the single rounds' ratios; None for fewer than two rounds."""
        ratios = [product.figure / baseline.figure for product, baseline in self.rounds]
        if len(ratios) < 2:
            return None
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def verdict(self) -> str:
        """The verdict: "pass", "MISS", or "-" if there is no bound or no measurement."""
        if not self.conditions_met:
            return "MISS"
        figure, bound = self.figure, self.target.bound
        if figure is None or bound is None:
            return "-"
        passed = figure <= bound if self.target.at_most else figure >= bound
        return "pass" if passed else "MISS"

    def as_json(self) -> dict[str, Any]:
        """Return the result, including every sample, for the JSON file."""
        return {
            "target": self.target.id,
            "what": self.target.title,
            "bound": str(self.target),
            "ratio": self.ratio,
            "value": self.value,
            "unit": self.target.unit,
            "spread": self.spread,
            "verdict": self.verdict,
            "note": self.note,
            "ours": [[product.figure, product.cpu_s] for product, _ in self.rounds],
            "raw": [[baseline.figure, baseline.cpu_s] for _, baseline in self.rounds],
            "plot": None if self.plot is None else self.plot.as_json(),
        }


def interleave(
    rounds: int, product: Callable[[int], Sample], baseline: Callable[[int], Sample]
) -> tuple[Round, ...]:
    """Run both sides in turn and reverse the order each round, so that caches help both equally."""
    measured: list[Round] = []
    for number in range(rounds):
        if number % 2:
            baseline_sample = baseline(number)
            measured.append((product(number), baseline_sample))
        else:
            product_sample = product(number)
            measured.append((product_sample, baseline(number)))
    return tuple(measured)


def timed(work: Callable[[Any], object], arguments: Sequence[Any]) -> Sample:
    """Call `work` with each argument; return seconds and CPU seconds of this process per call."""
    cpu, started_at = time.process_time(), time.perf_counter()
    for argument in arguments:
        work(argument)
    count = len(arguments)
    return Sample(figure=(time.perf_counter() - started_at) / count, cpu_s=(time.process_time() - cpu) / count)


def p99(figures: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * 0.99))]


def typical(rounds: Sequence[Round]) -> tuple[Sample, Sample]:
    """Return the medians of both sides."""
    product, baseline = (
        Sample(
            figure=median(pair[side].figure for pair in rounds),
            cpu_s=median(pair[side].cpu_s for pair in rounds),
        )
        for side in (0, 1)
    )
    return product, baseline


def microseconds(rounds: Sequence[Round]) -> str:
    """Return a note for figures that are seconds per operation."""
    product, baseline = typical(rounds)
    wall = f"{product.figure * 1e6:,.0f} us against {baseline.figure * 1e6:,.0f}"
    return f"{wall}; CPU {product.cpu_s * 1e6:,.0f} against {baseline.cpu_s * 1e6:,.0f}"


def per_second(rounds: Sequence[Round], unit: str) -> str:
    """Return a note for figures that are operations per second."""
    product, baseline = typical(rounds)
    wall = f"{product.figure:,.0f} {unit}/s against {baseline.figure:,.0f}"
    return f"{wall}; CPU of the client {product.cpu_s * 1e3:.3f} ms each against {baseline.cpu_s * 1e3:.3f}"


def table(results: Sequence[Result]) -> str:
    """Return the results as a text table, one line each."""
    head = ("id", "what", "target", "measured", "quartiles", "", "product against baseline")
    lines = [head, *(_line(result) for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _line(result: Result) -> tuple[str, ...]:
    figure, spread = result.figure, result.spread
    return (
        result.target.id,
        result.target.title,
        str(result.target),
        "-" if figure is None else f"{figure:,.{0 if figure >= 1_000 else 2}f} {result.target.unit}",
        "-" if spread is None else f"{spread[0]:.2f}-{spread[1]:.2f}",
        result.verdict,
        result.note,
    )
