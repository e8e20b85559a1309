"""Cost of dead index entries until vacuum: the time of an empty expiry run after many bindings have ended.

The job reads the index of due bindings from its oldest entry on, where each ended binding has left a dead entry.
The server removes dead entries while reading them, unless an open snapshot may still need them: a long
transaction, a dump, a standby that gives feedback.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

import psycopg

from benchmarks.measure import Result, Target
from benchmarks.plot import Curve, Plot
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.jobs.batches import DueBatches
from bindings.store.database import Database

if TYPE_CHECKING:
    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase

SWEEPS = 15
CALLER = Caller(actor="bench")
LABELS = {False: "no snapshot held", True: "snapshot held"}


def measure(context: BenchContext) -> list[Result]:
    """Return the time of an empty expiry run by number of bindings ended, with and without a snapshot held."""
    bench_db = context.postgres(context.sizes.growth[0])
    curves = [_curve(bench_db, context.sizes.dead_rows, snapshot_held=snapshot_held) for snapshot_held in LABELS]
    plot = Plot(
        name="sweep-behind-the-dead",
        title="an empty sweep: median against what was ended since the last vacuum",
        x="bindings ended since",
        y="ms",
        curves=tuple(curves),
    )
    return [
        Result(
            target=Target(
                id="vacuum", title=f"empty sweep after {curve.points[-1][0]:,.0f}, {curve.name}", unit="ms"
            ),
            value=curve.points[-1][1],
            note=", ".join(f"{milliseconds:.2f} ms after {ended:,.0f}" for ended, milliseconds in curve.points),
            plot=plot if curve is curves[0] else None,
        )
        for curve in curves
    ]


def _curve(bench_db: BenchDatabase, steps: tuple[int, ...], *, snapshot_held: bool) -> Curve:
    points, ended = [], 0
    database = Database(bench_db.url)
    with ExitStack() as stack:
        stack.callback(database.close)
        expire.expire_due(DueBatches(database=database, caller=CALLER, budget_s=60))
        bench_db.execute("VACUUM bindings")
        if snapshot_held:
            snapshot = stack.enter_context(psycopg.connect(bench_db.url))
            snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            snapshot.execute("SELECT 1")
        for step in steps:
            bench_db.add_due(step - ended)
            expire.expire_due(DueBatches(database=database, caller=CALLER, budget_s=300))
            ended = step
            points.append((float(step), median(_empty_sweep_ms(database) for _ in range(SWEEPS))))
    return Curve(name=LABELS[snapshot_held], points=tuple(points))


def _empty_sweep_ms(database: Database) -> float:
    started_at = time.perf_counter()
    expire.expire_due(DueBatches(database=database, caller=CALLER))
    return (time.perf_counter() - started_at) * 1e3
