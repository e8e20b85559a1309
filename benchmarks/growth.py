"""P3 and P9: what more history costs. Databases of growing size are asked in turn, in the same rounds.

One live binding stands beside ten that have ended. Phones and numbers are drawn anew for every question, so
that a big database shows what it does not keep in memory. Before anything is timed, the plans are
asserted: an index of the question's own, and never a scan.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind, data
from benchmarks.measure import Result, Sample, Target, p99
from benchmarks.plot import Curve, Plot
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.provider.client import ProviderClient
from tests.store.test_plans import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled
    from bindings.service import BindingService

SWEPT = 1_000
TRACE_MS = 5.0
GROWS = 1.2
# What lookups read is in the server's buffers, as on one that has been at work: the live rows, and the indexes
# that lead to them. Else a first look at a page is timed, at the one size that is too large to have stayed there.
WARM = (
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SELECT count(phone_a) FROM (SELECT phone_a FROM bindings ORDER BY phone_a, held_until) AS every",
    "SELECT count(phone_b) FROM (SELECT phone_b FROM bindings ORDER BY phone_b, held_until) AS every",
    "SELECT count(reference) FROM bindings WHERE state = 'active' AND expires_at > '-infinity'",
    "RESET enable_seqscan",
    "RESET enable_bitmapscan",
)
PLANNED_FROM = 10_000  # a scan of less is no mistake


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grown:
    """A database, and a service on it."""

    filled: Filled
    service: BindingService
    ended: int

    def lookup(self) -> None:
        rows = random.choice((1, 2, 3))
        self.service.lookup(phone=data.phone(rows, random.randrange(self.filled.live // 6)))

    def trace(self) -> None:
        past = datetime.now(UTC) - timedelta(seconds=data.DAY_S + 10 * random.randrange(self.ended))
        self.service.trace(middle_number=data.middle_number(random.randrange(data.NUMBERS)), at=past)

    def search(self) -> None:
        self.service.search(phone=data.phone(3, random.randrange(self.filled.live // 6)), limit=20)

    def page(self) -> None:
        self.service.search(limit=50)

    def bind(self) -> None:
        bind.bind_once(self.service)

    def sweep(self) -> None:
        expire.expire_due(self.service.database, Caller(actor="bench"), batch=SWEPT)


QUESTIONS: dict[str, tuple[Callable[[_Grown], None], int]] = {
    "lookup": (_Grown.lookup, 20),
    "trace": (_Grown.trace, 20),
    "search by phone": (_Grown.search, 10),
    "first page of all": (_Grown.page, 5),
    "bind": (_Grown.bind, 5),
    "sweep of 1 000": (_Grown.sweep, 1),
}


def measure(place: Place) -> list[Result]:
    """P3, P9, and the same curve for everything else that history could slow down."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ProviderClient, "bind", bind.made_at_once))
        grown = []
        for ended in place.sizes.growth:
            filled = place.postgres(ended)
            for statement in WARM:
                filled.run(statement)
            service = stack.enter_context(bind.opened(filled.url))
            grown.append(_Grown(filled=filled, service=service, ended=ended))
        for each in grown:
            if each.ended >= PLANNED_FROM:
                _assert_plans(each)
        took = _rounds(grown, place.sizes.rounds)
    return [_growth(name, took, grown) for name in QUESTIONS] + [_trace(took, grown)]


def _rounds(grown: list[_Grown], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Seconds of every single call, by question and by size."""
    took: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for each in grown if number % 2 else reversed(grown):
            each.filled.due(SWEPT - 1)
            for name, (ask, times) in QUESTIONS.items():
                for _ in range(times):
                    began = time.perf_counter()
                    ask(each)
                    if number:  # the first round opens connections and builds statements
                        took.setdefault((name, each.ended), []).append(time.perf_counter() - began)
    return took


def _assert_plans(grown: _Grown) -> None:
    """No question reaches its rows by a scan."""
    for name, (ask, _) in QUESTIONS.items():
        if name == "bind":
            continue  # explaining an INSERT a second time would meet the first one's row
        ways = explained(grown.service, lambda ask=ask: ask(grown))  # type: ignore[misc]
        if "scan" in ways or not ways:
            raise AssertionError(f"{name} with {grown.ended} ended: {sorted(ways)}")


def _growth(name: str, took: dict[tuple[str, int], list[float]], grown: list[_Grown]) -> Result:
    least, most = grown[0].ended, grown[-1].ended
    medians = {each.ended: median(took[name, each.ended]) for each in grown}
    rounds = tuple(
        (Sample(figure=big, cpu_s=0.0), Sample(figure=small, cpu_s=0.0))
        for big, small in zip(took[name, most], took[name, least], strict=True)
    )
    points = tuple((float(ended), taken * 1e3) for ended, taken in medians.items())
    return Result(
        target=Target(
            id="P3",
            what=f"{name}, {most:,} ended against {least:,}",
            bound=GROWS if name == "lookup" else None,
        ),
        rounds=rounds,
        note=", ".join(f"{taken:.2f} ms at {ended:,.0f}" for ended, taken in points),
        plot=Plot(
            name=f"growth-{name.split(maxsplit=1)[0]}",
            title=f"{name}: median against history",
            x="ended bindings",
            y="ms",
            curves=(Curve(name=name, points=points),),
        ),
    )


def _trace(took: dict[tuple[str, int], list[float]], grown: list[_Grown]) -> Result:
    slowest = {each.ended: p99(took["trace", each.ended]) * 1e3 for each in grown}
    return Result(
        target=Target(id="P9", what=f"trace, p99, {grown[-1].ended:,} ended", bound=TRACE_MS, unit="ms"),
        value=slowest[grown[-1].ended],
        note=", ".join(f"{taken:.2f} ms at {ended:,}" for ended, taken in slowest.items()),
    )
