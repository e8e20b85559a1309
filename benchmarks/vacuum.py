"""What ended bindings leave behind until they are vacuumed: an empty sweep after many full ones.

A sweep starts from the index of what is due, at its oldest end, where every binding that was ended has left an
entry. The server forgets such entries on the way, unless a snapshot that somebody holds may still need them: a
long transaction, a dump, a standby that gives feedback.
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
from bindings.store.database import Database

if TYPE_CHECKING:
    from benchmarks.bench_context import Place
    from benchmarks.data import Filled

SWEEPS = 15
CALLER = Caller(actor="bench")
WHAT = {False: "no snapshot held", True: "snapshot held"}


def measure(place: Place) -> list[Result]:
    """The time of an empty sweep by how many were ended since the last vacuum, and with a snapshot held."""
    filled = place.postgres(place.sizes.growth[0])
    curves = [_curve(filled, place.sizes.dead, held=held) for held in WHAT]
    plot = Plot(
        name="sweep-behind-the-dead",
        title="an empty sweep: median against what was ended since the last vacuum",
        x="bindings ended since",
        y="ms",
        curves=tuple(curves),
    )
    return [
        Result(
            target=Target(id="P5", what=f"empty sweep after {curve.points[-1][0]:,.0f}, {curve.name}", unit="ms"),
            value=curve.points[-1][1],
            note=", ".join(f"{taken:.2f} ms after {ended:,.0f}" for ended, taken in curve.points),
            plot=plot if curve is curves[0] else None,
        )
        for curve in curves
    ]


def _curve(filled: Filled, steps: tuple[int, ...], *, held: bool) -> Curve:
    points, ended = [], 0
    database = Database(filled.url)
    with ExitStack() as stack:
        stack.callback(database.close)
        expire.expire_due(database, CALLER, budget_s=60)
        filled.run("VACUUM bindings")
        if held:
            snapshot = stack.enter_context(psycopg.connect(filled.url))
            snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            snapshot.execute("SELECT 1")
        for step in steps:
            filled.due(step - ended)
            expire.expire_due(database, CALLER, budget_s=300)
            ended = step
            points.append((float(step), median(_empty_sweep_ms(database) for _ in range(SWEEPS))))
    return Curve(name=WHAT[held], points=tuple(points))


def _empty_sweep_ms(database: Database) -> float:
    began = time.perf_counter()
    expire.expire_due(database, CALLER)
    return (time.perf_counter() - began) * 1e3
