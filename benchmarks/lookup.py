"""P1 and P2: `lookup` by phone and by reference against the same query on an open connection of the bare driver.

The baseline uses psycopg with the query prepared, as the product does, and returns plain tuples; on SQLite its
instants remain text.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.engine import make_url

from benchmarks import data
from benchmarks.measure import Result, Target, interleave, microseconds, timed
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes
    from benchmarks.measure import Sample
    from bindings.domain.binding import Binding

ROWS = (1, 2, 3)
PHONES = 500  # few enough to stay cached: the measure compares drivers, not disks

COLUMNS = (
    "id, mode, phone_a, phone_b, pool_number, app_id, scope, reference, idempotency_key, expire_s, warn_s,"
    " bind_id, middle_number_a, middle_number_b, state, provider_status, reason, actor, request_id, requested_at,"
    " send_by, settle_by, sent_at, answered_at, expires_at, held_until, unbind_requested_at, ended_at, version"
)


def _query(now: str, phone: str) -> str:
    return f"""
        WITH held AS MATERIALIZED (
            SELECT {COLUMNS} FROM bindings WHERE phone_a = {phone} AND held_until > {now}
            UNION ALL
            SELECT {COLUMNS} FROM bindings WHERE phone_b = {phone} AND phone_a <> {phone} AND held_until > {now})
        SELECT {COLUMNS} FROM held
        WHERE state = 'active' AND expires_at > {now} AND unbind_requested_at IS NULL
        ORDER BY requested_at DESC, id DESC
    """


POSTGRES = _query("(SELECT clock_timestamp())", "%(phone)s")
POSTGRES_BY_REFERENCE = f"""
    SELECT {COLUMNS} FROM bindings
    WHERE reference = %(reference)s AND requested_at > (SELECT clock_timestamp()) - interval '5 days'
        AND state = 'active' AND expires_at > (SELECT clock_timestamp()) AND unbind_requested_at IS NULL
    ORDER BY requested_at DESC, id DESC
"""
SQLITE = _query(":now", ":phone")


def postgres(context: BenchContext) -> list[Result]:
    """Return P1: lookups on PostgreSQL."""
    bench_db = context.postgres()
    with psycopg.connect(bench_db.url, autocommit=True) as connection:

        def baseline(phone: str) -> list[tuple[object, ...]]:
            return connection.execute(POSTGRES, {"phone": phone}, prepare=True).fetchall()  # as the product does

        def reference_baseline(reference: str) -> list[tuple[object, ...]]:
            return connection.execute(POSTGRES_BY_REFERENCE, {"reference": reference}, prepare=True).fetchall()

        target = Target(id="P1", title="lookup on PostgreSQL", bound=1.8)
        by_reference = Target(id="P1", title="lookup by reference on PostgreSQL", bound=1.6)
        return [
            *_compare(target, bench_db, context.sizes, baseline),
            _compare_references(by_reference, bench_db, context.sizes, reference_baseline),
        ]


def sqlite(context: BenchContext) -> list[Result]:
    """Return P2: lookups on SQLite."""
    bench_db = context.sqlite()
    file = make_url(bench_db.url).database or ""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:

        def baseline(phone: str) -> list[tuple[object, ...]]:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            return connection.execute(SQLITE, {"phone": phone, "now": now}).fetchall()

        target = Target(id="P2", title="lookup on SQLite", bound=4.0)
        return _compare(target, bench_db, context.sizes, baseline)


def _compare(
    target: Target, bench_db: BenchDatabase, sizes: Sizes, baseline: Callable[[str], list[tuple[object, ...]]]
) -> list[Result]:
    results = []
    with BindingService.open(database_url=bench_db.url) as service:

        def product(phone: str) -> list[Binding]:
            return service.lookup(phone=phone)

        for rows in ROWS:
            target_of_rows = replace(target, title=f"{target.title}, {rows} row{'s' if rows > 1 else ''}")
            phones = _phones(bench_db, rows)
            results.append(_measure(target_of_rows, phones, sizes, product, baseline, rows=rows))
    return results


def _compare_references(
    target: Target, bench_db: BenchDatabase, sizes: Sizes, baseline: Callable[[str], list[tuple[object, ...]]]
) -> Result:
    newest = f"SELECT reference FROM bindings WHERE state = 'active' ORDER BY requested_at DESC LIMIT {PHONES}"
    references = [str(row[0]) for row in bench_db.execute(newest).fetchall()]
    with BindingService.open(database_url=bench_db.url) as service:
        return _measure(
            target, references, sizes, lambda reference: service.lookup(reference=reference), baseline, rows=1
        )


def _measure(
    target: Target,
    keys: list[str],
    sizes: Sizes,
    product: Callable[[str], list[Binding]],
    baseline: Callable[[str], list[tuple[object, ...]]],
    *,
    rows: int,
) -> Result:
    """Return the times of both sides for random samples of the keys, each of which has this many rows."""
    for key in keys:  # warms both up, and checks that both return the same rows
        bindings = product(key)
        if [binding.id for binding in bindings] != [str(row[0]) for row in baseline(key)] or len(bindings) != rows:
            raise AssertionError(f"{key}: the two sides differ")
    samples = [random.sample(keys, min(sizes.lookups, len(keys))) for _ in range(sizes.rounds)]
    rounds = interleave(sizes.rounds, _timed_round(product, samples), _timed_round(baseline, samples))
    return Result(target=target, rounds=rounds, note=microseconds(rounds))


def _timed_round(work: Callable[[str], object], samples: list[list[str]]) -> Callable[[int], Sample]:
    return lambda number: timed(work, samples[number])


def _phones(bench_db: BenchDatabase, rows: int) -> list[str]:
    numbers = range(bench_db.live // 6)
    return [data.phone(rows, number) for number in random.sample(numbers, min(PHONES, len(numbers)))]
