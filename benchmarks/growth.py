"""P3, P3b and P9: the cost of more history. Databases of growing size are queried in turn, in the same rounds.

There is one live binding for ten that have ended. Each query uses random phones and numbers, so that a large
database also reads what is not in memory. Before any timing, the plans are checked: each query uses its index,
never a scan.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import bind, data
from benchmarks.measure import Result, Sample, Target, p99
from benchmarks.plot import Curve, Plot
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.jobs.batches import DueBatches
from bindings.provider.client import ProviderClient
from tests.store.test_plans import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase
    from bindings.service import BindingService

EXPIRE_BATCH = 1_000
TRACE_MS = 5.0
# Load what lookups read into the server's buffers, as on a server in use: the live rows and their indexes.
# Otherwise the first read of a page would be timed, and only at the largest size, which does not fit in memory.
WARM = (
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SELECT count(phone_a) FROM (SELECT phone_a FROM bindings ORDER BY phone_a, held_until) AS all_rows",
    "SELECT count(phone_b) FROM (SELECT phone_b FROM bindings ORDER BY phone_b, held_until) AS all_rows",
    "SELECT count(reference) FROM bindings WHERE state = 'active' AND expires_at > '-infinity'",
    "RESET enable_seqscan",
    "RESET enable_bitmapscan",
)
CHECK_PLANS_FROM = 10_000  # a scan of fewer rows is a good plan


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A database of one size, and a service on it."""

    bench_db: BenchDatabase
    service: BindingService
    ended: int

    def lookup(self) -> None:
        rows = random.choice((1, 2, 3))
        self.service.lookup(phone=data.phone(rows, random.randrange(self.bench_db.live // 6)))

    def trace(self) -> None:
        past = datetime.now(UTC) - timedelta(seconds=data.DAY_S + 10 * random.randrange(self.ended))
        self.service.trace(middle_number=data.middle_number(random.randrange(data.NUMBERS)), at=past)

    def search(self) -> None:
        self.service.search(phone=data.phone(3, random.randrange(self.bench_db.live // 6)), limit=20)

    def page(self) -> None:
        self.service.search(limit=50)

    def bind(self) -> None:
        bind.bind_once(self.service)

    def sweep(self) -> None:
        expire.expire_due(
            DueBatches(database=self.service.runtime.database, caller=Caller(actor="bench"), batch=EXPIRE_BATCH)
        )


OPERATIONS: dict[str, tuple[Callable[[_Case], None], int]] = {
    "lookup": (_Case.lookup, 20),
    "trace": (_Case.trace, 20),
    "search by phone": (_Case.search, 10),
    "first page of all": (_Case.page, 5),
    "bind": (_Case.bind, 5),
    "sweep of 1 000": (_Case.sweep, 1),
}


# Of the other operations the growth is shown and has no bound.
TARGETS = {
    "lookup": Target(id="P3", title="lookup", bound=1.15),
    "trace": Target(id="P3b", title="trace", bound=1.3),
    "search by phone": Target(id="P3b", title="search by phone", bound=1.3),
}


def measure(context: BenchContext) -> list[Result]:
    """Return P3, P3b, P9, and the same curve for every other operation that history could slow down."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ProviderClient, "bind", bind.instant_bind))
        cases = []
        for ended in context.sizes.growth:
            bench_db = context.postgres(ended)
            for statement in WARM:
                bench_db.execute(statement)
            service = stack.enter_context(bind.open_service(bench_db.url))
            cases.append(_Case(bench_db=bench_db, service=service, ended=ended))
        for case in cases:
            if case.ended >= CHECK_PLANS_FROM:
                _assert_plans(case)
        durations = _rounds(cases, context.sizes.rounds)
    return [_growth(name, durations, cases) for name in OPERATIONS] + [_trace(durations, cases)]


def _rounds(cases: list[_Case], rounds: int) -> dict[tuple[str, int], list[float]]:
    """Return the seconds of every call, by operation and number of ended bindings."""
    durations: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for case in cases if number % 2 else reversed(cases):
            case.bench_db.add_due(EXPIRE_BATCH - 1)
            for name, (operation, times) in OPERATIONS.items():
                for _ in range(times):
                    started_at = time.perf_counter()
                    operation(case)
                    if number:  # the first round opens connections and compiles statements
                        durations.setdefault((name, case.ended), []).append(time.perf_counter() - started_at)
    return durations


def _assert_plans(case: _Case) -> None:
    """Assert that no operation reads its rows by a scan."""
    for name, (operation, _) in OPERATIONS.items():
        if name == "bind":
            continue  # EXPLAIN of the INSERT would conflict with the row of the first run
        plans = explained(case.service, partial(operation, case))
        if "scan" in plans or not plans:
            raise AssertionError(f"{name} with {case.ended} ended: {sorted(plans)}")


def _growth(name: str, durations: dict[tuple[str, int], list[float]], cases: list[_Case]) -> Result:
    smallest, largest = cases[0].ended, cases[-1].ended
    medians = {case.ended: median(durations[name, case.ended]) for case in cases}
    rounds = tuple(
        (Sample(figure=big, cpu_s=0.0), Sample(figure=small, cpu_s=0.0))
        for big, small in zip(durations[name, largest], durations[name, smallest], strict=True)
    )
    points = tuple((float(ended), seconds * 1e3) for ended, seconds in medians.items())
    return Result(
        target=replace(
            TARGETS.get(name, Target(id="P3", title=name)), title=f"{name}, {largest:,} ended against {smallest:,}"
        ),
        rounds=rounds,
        note=", ".join(f"{milliseconds:.2f} ms at {ended:,.0f}" for ended, milliseconds in points),
        plot=Plot(
            name=f"growth-{name.split(maxsplit=1)[0]}",
            title=f"{name}: median against history",
            x="ended bindings",
            y="ms",
            curves=(Curve(name=name, points=points),),
        ),
    )


def _trace(durations: dict[tuple[str, int], list[float]], cases: list[_Case]) -> Result:
    slowest = {case.ended: p99(durations["trace", case.ended]) * 1e3 for case in cases}
    return Result(
        target=Target(id="P9", title=f"trace, p99, {cases[-1].ended:,} ended", bound=TRACE_MS, unit="ms"),
        value=slowest[cases[-1].ended],
        note=", ".join(f"{milliseconds:.2f} ms at {ended:,}" for ended, milliseconds in slowest.items()),
    )
