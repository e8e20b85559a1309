"""P5: the expiry job (`jobs.expire`) against a hand-written statement in batches of the same size.

P17: the job when every binding is to be released at the provider afterwards, against when none is.

Each side gets newly added due rows in each round. On SQLite the baseline runs the two statements of a batch in one
transaction, with the same durability as the product.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.engine import make_url

from benchmarks.measure import Result, Sample, Target, interleave, per_second
from benchmarks.plot import Curve, Plot
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.jobs.batches import BATCH, DueBatches
from bindings.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes

ROUNDS = 5

POSTGRES = """
WITH due AS MATERIALIZED (
    SELECT id FROM bindings WHERE state = 'active' AND expires_at <= (SELECT clock_timestamp())
    ORDER BY expires_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED),
ended AS (
    UPDATE bindings SET state = 'expired', ended_at = bindings.expires_at, version = bindings.version + 1,
        change_tx = greatest(bindings.change_tx, pg_current_xact_id()::text::bigint)
    FROM due WHERE bindings.id = due.id AND bindings.state = 'active'
    RETURNING bindings.change_tx, bindings.id, bindings.version)
INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail)
SELECT change_tx, id, version, 'expired', clock_timestamp(), 'bench', NULL, '{}' FROM ended
"""
_DUE = (
    "(SELECT id FROM bindings WHERE state = 'active' AND expires_at <= :now ORDER BY expires_at, id LIMIT :batch)"
)
SQLITE = (
    f"""INSERT INTO events (tx, binding_id, sequence, kind, at, actor, request_id, detail)
        SELECT 0, id, version + 1, 'expired', :now, 'bench', NULL, '{{}}' FROM bindings WHERE id IN {_DUE}""",
    f"""UPDATE bindings SET state = 'expired', ended_at = expires_at, version = version + 1, change_tx = 0
        WHERE id IN {_DUE}""",
)


PROVIDER_AFTER_S = 120  # long enough for a round: until then a release is owed
BATCHES = (100, 300, 1_000, 3_000, 10_000)


def measure(context: BenchContext) -> list[Result]:
    """Return P5 on each available database, the rate by batch size, and P17."""
    results = [_sqlite(context.sqlite(), context.sizes)]
    if context.optional_server is None:
        return results
    bench_db = context.postgres()
    sizes = context.sizes
    return [_postgres(bench_db, sizes), *results, _batches(bench_db, sizes), _releases(bench_db, sizes)]


def _releases(bench_db: BenchDatabase, sizes: Sizes) -> Result:
    """Return P17 on PostgreSQL."""
    database = Database(bench_db.url)

    def sweep() -> int:
        return expire.expire_due(DueBatches(database=database, caller=Caller(actor="bench"), budget_s=60)).expired

    def side(provider_after_s: int | None) -> Callable[[int], Sample]:
        def run_round(_: int) -> Sample:
            bench_db.add_due(sizes.due, provider_after_s=provider_after_s)
            return _timed(sweep, sizes.due)

        return run_round

    try:
        side(None)(0)  # connects and compiles the statement
        rounds = interleave(ROUNDS, side(PROVIDER_AFTER_S), side(None))
    finally:
        database.close()
    target = Target(id="P17", title="sweep with every binding to be released", bound=0.8, at_most=False)
    return Result(target=target, rounds=rounds, note=per_second(rounds, "rows"))


def _batches(bench_db: BenchDatabase, sizes: Sizes) -> Result:
    """Return the product's rate by batch size, which is the reason for its batch size."""
    rates: dict[int, list[float]] = {}
    database = Database(bench_db.url)
    try:
        for batch in BATCHES * 3:
            bench_db.add_due(sizes.due)
            started_at = time.perf_counter()
            expire.expire_due(
                DueBatches(database=database, caller=Caller(actor="bench"), batch=batch, budget_s=60)
            )
            rates.setdefault(batch, []).append(sizes.due / (time.perf_counter() - started_at))
    finally:
        database.close()
    points = tuple((float(batch), median(measured)) for batch, measured in rates.items())
    return Result(
        target=Target(id="P5", title=f"sweep on PostgreSQL in batches of {BATCH}", unit="rows/s"),
        value=dict(points)[BATCH],
        note=", ".join(f"{rate:,.0f} rows/s at {batch:,.0f}" for batch, rate in points),
        plot=Plot(
            name="sweep-batch",
            title="sweep on PostgreSQL: rate against batch",
            x="bindings in a batch",
            y="rows/s",
            curves=(Curve(name="sweep", points=points),),
        ),
    )


def _postgres(bench_db: BenchDatabase, sizes: Sizes) -> Result:
    """Return P5 on PostgreSQL."""
    with psycopg.connect(bench_db.url, autocommit=True, prepare_threshold=None) as connection:

        def batch() -> int:
            return connection.execute(POSTGRES, {"batch": BATCH}).rowcount

        return _compare("PostgreSQL", bench_db, sizes, batch)


def _sqlite(bench_db: BenchDatabase, sizes: Sizes) -> Result:
    """Return P5 on SQLite."""
    file = make_url(bench_db.url).database or ""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

        def batch() -> int:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            connection.execute("BEGIN IMMEDIATE")
            ended = 0
            for statement in SQLITE:
                ended = connection.execute(statement, {"now": now, "batch": BATCH}).rowcount
            connection.execute("COMMIT")
            return ended

        return _compare("SQLite", bench_db, sizes, batch)


def _compare(database_name: str, bench_db: BenchDatabase, sizes: Sizes, batch: Callable[[], int]) -> Result:
    database = Database(bench_db.url)

    def product() -> int:
        return expire.expire_due(DueBatches(database=database, caller=Caller(actor="bench"), budget_s=60)).expired

    def baseline() -> int:
        ended = total = batch()
        while ended == BATCH:
            ended = batch()
            total += ended
        return total

    def side(work: Callable[[], int]) -> Callable[[int], Sample]:
        def run_round(_: int) -> Sample:
            bench_db.add_due(sizes.due)
            return _timed(work, sizes.due)

        return run_round

    try:
        side(product)(0), side(baseline)(0)  # connects and compiles the statements
        rounds = interleave(ROUNDS, side(product), side(baseline))
    finally:
        database.close()
    target = Target(id="P5", title=f"sweep on {database_name}, batches of {BATCH}", bound=0.9, at_most=False)
    return Result(target=target, rounds=rounds, note=per_second(rounds, "rows"))


def _timed(work: Callable[[], int], due: int) -> Sample:
    cpu, started_at = time.process_time(), time.perf_counter()
    ended = work()
    elapsed = time.perf_counter() - started_at
    if ended != due:
        raise AssertionError(f"{ended} rows ended, {due} were due")
    return Sample(figure=ended / elapsed, cpu_s=(time.process_time() - cpu) / ended)
