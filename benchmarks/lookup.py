"""P1 and P2: `lookup(phone=)` against the same query on a held connection of the bare driver.

The raw side uses psycopg as the product does, with its query prepared, and makes plain tuples; on SQLite its
instants stay text.
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

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled, Sizes
    from benchmarks.measure import Sample
    from bindings.domain.binding import Binding

ROWS = (1, 2, 3)
PHONES = 500  # few enough to stay in every cache: the drivers are compared, not the disk

COLUMNS = (
    "id, mode, phone_a, phone_b, pool_number, app_id, scope, reference, idempotency_key, expire_s, warn_s,"
    " bind_id, middle_number_a, middle_number_b, state, provider_status, reason, actor, request_id, requested_at,"
    " send_by, settle_by, sent_at, answered_at, expires_at, held_until, unbind_requested_at, ended_at, version"
)


def _query(now: str, phone: str) -> str:
    return f"""
        WITH found AS MATERIALIZED (
            SELECT {COLUMNS} FROM bindings WHERE phone_a = {phone} AND held_until > {now}
            UNION ALL
            SELECT {COLUMNS} FROM bindings WHERE phone_b = {phone} AND phone_a <> {phone} AND held_until > {now})
        SELECT {COLUMNS} FROM found
        WHERE state = 'active' AND expires_at > {now} AND unbind_requested_at IS NULL
        ORDER BY requested_at DESC, id DESC
    """


POSTGRES = _query("(SELECT clock_timestamp())", "%(phone)s")
SQLITE = _query(":now", ":phone")


def postgres(place: Place) -> list[Result]:
    """P1."""
    filled = place.postgres()
    with psycopg.connect(filled.url, autocommit=True) as connection:

        def raw(phone: str) -> list[tuple[object, ...]]:
            return connection.execute(POSTGRES, {"phone": phone}, prepare=True).fetchall()  # as the product does

        target = Target(id="P1", what="lookup on PostgreSQL", bound=1.8)
        return _compare(target, filled, place.sizes, raw)


def sqlite(place: Place) -> list[Result]:
    """P2."""
    filled = place.sqlite()
    file = make_url(filled.url).database or ""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:

        def raw(phone: str) -> list[tuple[object, ...]]:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            return connection.execute(SQLITE, {"phone": phone, "now": now}).fetchall()

        target = Target(id="P2", what="lookup on SQLite", bound=4.0)
        return _compare(target, filled, place.sizes, raw)


def _compare(
    target: Target, filled: Filled, sizes: Sizes, raw: Callable[[str], list[tuple[object, ...]]]
) -> list[Result]:
    results = []
    with BindingService.open(database_url=filled.url) as service:

        def ours(phone: str) -> list[Binding]:
            return service.lookup(phone=phone)

        for rows in ROWS:
            phones = _phones(filled, rows)
            for phone in phones:  # warms both, and shows that both answer the same
                found = ours(phone)
                if [row.id for row in found] != [str(row[0]) for row in raw(phone)] or len(found) != rows:
                    raise AssertionError(f"{phone}: the two sides differ")
            asked = [random.sample(phones, min(sizes.lookups, len(phones))) for _ in range(sizes.rounds)]
            rounds = interleave(sizes.rounds, _side(ours, asked), _side(raw, asked))
            of_rows = replace(target, what=f"{target.what}, {rows} row{'s' if rows > 1 else ''}")
            results.append(Result(target=of_rows, rounds=rounds, note=microseconds(rounds)))
    return results


def _side(work: Callable[[str], object], asked: list[list[str]]) -> Callable[[int], Sample]:
    return lambda number: timed(work, asked[number])


def _phones(filled: Filled, rows: int) -> list[str]:
    there = range(filled.live // 6)
    return [data.phone(rows, number) for number in random.sample(there, min(PHONES, len(there)))]
