"""P1 and P2: `lookup(phone=)` against the same query on an open connection of the bare driver.

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
SQLITE = _query(":now", ":phone")


def postgres(context: BenchContext) -> list[Result]:
    """Return P1: lookups on PostgreSQL."""
    bench_db = context.postgres()
    with psycopg.connect(bench_db.url, autocommit=True) as connection:

        def baseline(phone: str) -> list[tuple[object, ...]]:
            return connection.execute(POSTGRES, {"phone": phone}, prepare=True).fetchall()  # as the product does

        target = Target(id="P1", title="lookup on PostgreSQL", bound=1.8)
        return _compare(target, bench_db, context.sizes, baseline)


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
            phones = _phones(bench_db, rows)
            for phone in phones:  # warms both up, and checks that both return the same rows
                bindings = product(phone)
                baseline_ids = [str(row[0]) for row in baseline(phone)]
                if [binding.id for binding in bindings] != baseline_ids or len(bindings) != rows:
                    raise AssertionError(f"{phone}: the two sides differ")
            samples = [random.sample(phones, min(sizes.lookups, len(phones))) for _ in range(sizes.rounds)]
            rounds = interleave(sizes.rounds, _timed_round(product, samples), _timed_round(baseline, samples))
            target_of_rows = replace(target, title=f"{target.title}, {rows} row{'s' if rows > 1 else ''}")
            results.append(Result(target=target_of_rows, rounds=rounds, note=microseconds(rounds)))
    return results


def _timed_round(work: Callable[[str], object], samples: list[list[str]]) -> Callable[[int], Sample]:
    return lambda number: timed(work, samples[number])


def _phones(bench_db: BenchDatabase, rows: int) -> list[str]:
    numbers = range(bench_db.live // 6)
    return [data.phone(rows, number) for number in random.sample(numbers, min(PHONES, len(numbers)))]
