"""Databases for the bench, filled in bulk: live bindings, ten times as many ended ones, and bindings that are due.

A phone of the bench is chosen by how many live bindings it has: see `phone`. SQL that both databases understand
derives every value from a row number, so that no row passes through Python.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.store.databases import Server

DAY_S = 86_400
REUSE_S = DAY_S // 2  # a kept database older than this is filled again, before its live bindings end
ID_PREFIX, ID_FROM = "01900000-0000-7000-8000-", 100_000_000_000  # an id is the prefix and a row number
NUMBERS = 10_000  # number of different middle numbers, each used many times
# First row number that `BenchDatabase.add_due` uses: above all others, also of earlier runs in a kept database.
DUE_FROM = 10_000_000_000 + int(time.time() - 1_790_000_000) * 10_000


# Details of the product's events by kind, which are as long as those of a history.
TYPICAL_DETAILS: dict[str, dict[str, Any]] = {
    "requested": {
        "mode": "AXXB",
        "pool_number": "918806",
        "app_id": "bench",
        "expire_s": 3_600,
        "requested_at": "2026-11-30T11:11:22.240486+00:00",
        "send_by": "2026-11-30T11:11:27.240486+00:00",
        "settle_by": "2026-11-30T11:11:38.240486+00:00",
        "held_until": "2026-11-30T12:17:03.240486+00:00",
        "facts": "f5af6e4405580d3488e927356d64352bdf2aa1c6c7c1c6314b9d43f93b36e439",
    },
    "activated": {
        "answered_at": "2026-11-30T11:11:22.259475+00:00",
        "bind_id": "1796037081311055339-3789229057",
        "expires_at": "2026-11-30T12:11:22.240513+00:00",
        "held_until": "2026-11-30T12:11:58.259681+00:00",
        "middle_number_a": "1490918674",
        "middle_number_b": "1490918674",
        "sent_at": "2026-11-30T11:11:22.240513+00:00",
    },
    "expired": {"ended_at": "2026-11-30T12:11:22.240513+00:00"},
}
NO_DETAILS: dict[str, dict[str, Any]] = {"requested": {}, "activated": {}, "expired": {}}

ALTERNATIVES = ("bindings", "psycopg", "orm", "redis", "redis-always", "bindings-sqlite", "sqlite3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The amount of data and the number of rounds of a run."""

    name: str
    live: int
    ended: int
    sqlite_live: int
    sqlite_ended: int
    rounds: int
    lookups: int
    due: int
    burst: int
    bind_rounds: int
    bind_s: float
    starts: int
    growth: tuple[int, ...]
    overdue: int
    doubts: int
    listed: int
    exported: int
    lag_s: int
    dead_rows: tuple[int, ...]
    churn: int
    churn_steps: int
    alternatives: tuple[str, ...]
    alternative_s: float
    events: int
    baseline_s: float


QUICK = Sizes(
    name="quick",
    live=1_200,
    ended=3_000,
    sqlite_live=1_200,
    sqlite_ended=3_000,
    rounds=2,
    lookups=10,
    due=500,
    burst=1_000,
    bind_rounds=1,
    bind_s=0.2,
    starts=2,
    growth=(600, 12_000),
    overdue=500,
    doubts=50,
    listed=1_000,
    exported=2_000,
    lag_s=1,
    dead_rows=(100, 1_000),
    churn=300,
    churn_steps=2,
    alternatives=("redis", "bindings-sqlite"),
    alternative_s=0.1,
    events=6_000,
    baseline_s=0.2,
)
DEFAULT = Sizes(
    name="default",
    live=100_000,
    ended=1_000_000,
    sqlite_live=20_000,
    sqlite_ended=200_000,
    rounds=31,
    lookups=100,
    due=10_000,
    burst=100_000,
    bind_rounds=5,
    bind_s=4.0,
    starts=21,
    growth=(10_000, 100_000, 1_000_000),
    overdue=30_000,
    doubts=1_000,
    listed=100_000,
    exported=100_000,
    lag_s=15,
    dead_rows=(1_000, 10_000, 50_000),
    churn=5_000,
    churn_steps=20,
    alternatives=ALTERNATIVES,
    alternative_s=3.0,
    events=1_000_000,
    baseline_s=5.0,
)
FULL = Sizes(
    name="full",
    live=1_000_000,
    ended=10_000_000,
    sqlite_live=100_000,
    sqlite_ended=1_000_000,
    rounds=31,
    lookups=200,
    due=20_000,
    burst=1_000_000,
    bind_rounds=5,
    bind_s=5.0,
    starts=31,
    growth=(10_000, 100_000, 1_000_000, 10_000_000),
    overdue=300_000,
    doubts=10_000,
    listed=1_000_000,
    exported=1_000_000,
    lag_s=30,
    dead_rows=(1_000, 10_000, 50_000, 200_000),
    churn=20_000,
    churn_steps=20,
    alternatives=ALTERNATIVES,
    alternative_s=5.0,
    events=10_000_000,
    baseline_s=10.0,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchDatabase:
    """A migrated database with bindings in it, and a function that runs SQL in it."""

    url: str
    live: int
    execute: Callable[[str], Any]
    dialect: Dialect

    def add_due(
        self, count: int, *, after_s: float = -3_600.0, over_s: int = 3_000, provider_after_s: int | None = None
    ) -> int:
        """Add `count` active bindings that end, evenly spread, in the `over_s` seconds from now + `after_s` on.

        The provider ends them `provider_after_s` seconds from now (None: at their ends). Return the first of their
        consecutive row numbers (see `binding_id`).
        """
        at = int(time.time())
        first = _reserve_numbers(count)
        ends = f"{at + after_s} + (n % {count}) * {over_s / count}"
        times = {"requested_at": f"{at} - 7200", "expires_at": ends, "ended_at": "NULL"}
        if provider_after_s is not None:
            times["provider_expires_at"] = f"{at + provider_after_s}"
        pair = "CAST(50000000000 + n AS text)", "CAST(70000000000 + n AS text)"
        self.execute(_insert(self.dialect, "active", pair, times) + self.dialect.numbers(first, count))
        return first

    def add_in_doubt(self, count: int) -> None:
        """Add `count` bindings that stay in doubt for a day."""
        at = int(time.time())
        times = {"requested_at": f"{at} - 600", "expires_at": f"{at} + {DAY_S}", "ended_at": "NULL"}
        pair = "CAST(50000000000 + n AS text)", "CAST(70000000000 + n AS text)"
        self.execute(
            _insert(self.dialect, "in_doubt", pair, times) + self.dialect.numbers(_reserve_numbers(count), count)
        )

    def wait_until_none_due(self, timeout_s: float) -> None:
        """Wait until no binding is overdue; raise `AssertionError` after `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while self._is_overdue():
            if time.monotonic() > until:
                raise AssertionError("bindings are still overdue")
            time.sleep(0.2)

    def _is_overdue(self) -> bool:
        now = self.dialect.instant(str(int(time.time())))
        due = f"SELECT 1 FROM bindings WHERE state = 'active' AND expires_at <= {now}"
        # The job ends the latest ones last. From the other end the index has an entry of each that it has ended.
        return self.execute(f"{due} ORDER BY expires_at DESC LIMIT 1").fetchone() is not None


_next_due = itertools.count(DUE_FROM)


def _reserve_numbers(count: int) -> int:
    """Return the first of `count` consecutive row numbers that are not used yet."""
    return min(next(_next_due) for _ in range(count))


def binding_id(number: int) -> str:
    """Return the id of the binding with that row number."""
    return f"{ID_PREFIX}{ID_FROM + number}"


def phone(rows: int, number: int) -> str:
    """Return the digits of a phone that has `rows` (1 to 3) live bindings and ten times as many ended ones."""
    return str(rows * 10**10 + number)


def middle_number(number: int) -> str:
    """Return the digits of one of the bench's middle numbers (0 to `NUMBERS`)."""
    return str(1_000_000_000 + number)


@contextmanager
def postgres_database(
    server: Server,
    *,
    live: int,
    ended: int,
    keep: bool = False,
    migrate: Callable[[str], object] = migrations.upgrade,
    details: Mapping[str, dict[str, Any]] = NO_DETAILS,
) -> Iterator[BenchDatabase]:
    """Create and fill a PostgreSQL database; drop it at the end, even with clients connected, unless `keep`.

    A database that an earlier run kept is used as it is, with everything that the run bound or ended in it.
    `migrate` creates the tables before the database is filled; the events of each kind have the `details`.
    """
    name = f"bench_kept_{live}_{ended}" if keep else f"bench_{os.getpid()}_{time.time_ns()}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        reused = keep and _is_reusable(admin, name)
        if not reused:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {name}")
        try:
            url = server.address(name)
            migrate(url)
            with psycopg.connect(url, autocommit=True) as connection:
                bench_db = BenchDatabase(url=url, live=live, execute=connection.execute, dialect=_POSTGRES)
                if not reused:
                    _fill(bench_db, ended, details)
                    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
                        connection.execute(statement)
                    admin.execute(f"COMMENT ON DATABASE {name} IS '{int(time.time())}'")
                yield bench_db
        finally:
            if not keep:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _is_reusable(admin: psycopg.Connection, name: str) -> bool:
    """Return whether an earlier run filled this database completely, less than `REUSE_S` seconds ago."""
    comment = admin.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (name,)
    ).fetchone()
    return comment is not None and comment[0] is not None and time.time() - int(comment[0]) < REUSE_S


@contextmanager
def sqlite_database(folder: Path, *, live: int, ended: int) -> Iterator[BenchDatabase]:
    """Create and fill a SQLite database in a folder, which the caller removes."""
    file = folder / "bench.db"
    url = f"sqlite:///{file}"
    migrations.upgrade(url)
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        # Only of this connection, which loads rows and adds due ones.
        connection.execute("PRAGMA synchronous = OFF")
        bench_db = BenchDatabase(url=url, live=live, execute=connection.execute, dialect=_SQLITE)
        _fill(bench_db, ended, NO_DETAILS)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield bench_db
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The SQL fragments in which the two databases differ."""

    instant: Callable[[str], str]
    id: Callable[[str], str]
    numbers: Callable[[int, int], str]
    indexes: str
    disable_foreign_keys: str
    enable_foreign_keys: str


_POSTGRES = Dialect(
    instant=lambda seconds: f"to_timestamp({seconds})",
    id=lambda text: f"CAST({text} AS uuid)",
    numbers=lambda first, count: f"generate_series({first}::bigint, {first + count - 1}) AS g(n)",
    indexes="SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'bindings' AND indexname !~ '^pk_'",
    # Skips foreign keys: the binding of each event was just read.
    disable_foreign_keys="SET session_replication_role = replica",
    enable_foreign_keys="RESET session_replication_role",
)
_SQLITE = Dialect(
    instant=lambda seconds: f"strftime('%Y-%m-%dT%H:%M:%S.000000Z', {seconds}, 'unixepoch')",
    id=lambda text: text,
    numbers=lambda first, count: (
        f"(WITH RECURSIVE g(n) AS (VALUES({first}) UNION ALL SELECT n + 1 FROM g WHERE n < {first + count - 1})"
        " SELECT n FROM g)"
    ),
    indexes="SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'bindings' AND sql <> ''",
    disable_foreign_keys="PRAGMA foreign_keys = OFF",
    enable_foreign_keys="PRAGMA foreign_keys = ON",
)


def _fill(bench_db: BenchDatabase, ended: int, details: Mapping[str, dict[str, Any]]) -> None:
    """Insert ended bindings, then live ones, then build the indexes and add the events."""
    at = int(time.time())
    indexes = list(bench_db.execute(bench_db.dialect.indexes).fetchall())
    for name, _ in indexes:
        bench_db.execute(f"DROP INDEX {name}")
    past = f"{at} - {DAY_S} - 10 * n"
    times = {"requested_at": f"{past} - {DAY_S}", "expires_at": past, "ended_at": past}
    numbers = bench_db.dialect.numbers(0, ended)
    bench_db.execute(_insert(bench_db.dialect, "expired", _phone_pair(f"(n % {bench_db.live})"), times) + numbers)
    times = {
        "requested_at": f"{at} - 1800 + n % 1500",
        "expires_at": f"{at} + {DAY_S} + n % {2 * DAY_S}",  # no live binding ends during a run
        "ended_at": "NULL",
    }
    numbers = bench_db.dialect.numbers(ended, bench_db.live)
    bench_db.execute(_insert(bench_db.dialect, "active", _phone_pair(f"(n - {ended})"), times) + numbers)
    for _, definition in indexes:
        bench_db.execute(definition)
    _add_events(bench_db, at, details)


def _add_events(bench_db: BenchDatabase, at: int, details: Mapping[str, dict[str, Any]]) -> None:
    """Insert the events of every binding: two for a live one, three for an ended one."""
    bench_db.execute(bench_db.dialect.disable_foreign_keys)
    kinds = (("requested", 1, "requested_at"), ("activated", 2, "answered_at"), ("expired", 3, "ended_at"))
    for kind, sequence, column in kinds:
        bench_db.execute(
            "INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)"
            f" SELECT 0, id, {sequence}, '{kind}', {column}, 'bench', '{json.dumps(details[kind])}' FROM bindings"
            f" WHERE {column} <= {bench_db.dialect.instant(str(at))} ORDER BY id"
        )
    bench_db.execute(bench_db.dialect.enable_foreign_keys)


def _insert(dialect: Dialect, state: str, pair: tuple[str, str], times: dict[str, str]) -> str:
    """Return an INSERT of one row per number `n`; append the source of the numbers (`Dialect.numbers`)."""
    requested, expires, ended = times["requested_at"], times["expires_at"], times["ended_at"]
    number = f"CAST(1000000000 + n % {NUMBERS} AS text)"
    values = {
        "id": dialect.id(f"'{ID_PREFIX}' || CAST({ID_FROM} + n AS text)"),
        "mode": "'AXXB'",
        "phone_a": pair[0],
        "phone_b": pair[1],
        "pool_number": "'918806'",
        "app_id": "'bench'",
        "scope": "'default'",
        "reference": "'order ' || n",
        "expire_s": str(DAY_S),
        "bind_id": "NULL" if state == "in_doubt" else "CAST(n AS text)",
        "middle_number_a": number,
        "middle_number_b": number,
        "state": f"'{state}'",
        "actor": "'bench'",
        "requested_at": dialect.instant(requested),
        "send_by": dialect.instant(f"{requested} + 5"),
        "settle_by": dialect.instant(f"{requested} + 16"),
        "sent_at": dialect.instant(requested),
        "answered_at": dialect.instant(f"{requested} + 1"),
        "expires_at": dialect.instant(expires),
        "held_until": dialect.instant(f"{times.get('provider_expires_at', expires)} + 864"),
        "ended_at": ended if ended == "NULL" else dialect.instant(ended),
        "version": "2" if ended == "NULL" else "3",
    }
    if "provider_expires_at" in times:  # earlier schemas have no such column
        values["provider_expires_at"] = dialect.instant(times["provider_expires_at"])
    columns, row = ", ".join(values), ", ".join(values.values())
    return f"INSERT INTO bindings ({columns}) SELECT {row} FROM "


def _phone_pair(owner: str) -> tuple[str, str]:
    """Return SQL for both phones of a row: of six rows one has a phone alone, two share one, three share one.

    The shared phone is phone_a in every other row and phone_b in the rest, so that a lookup reads both sides.
    """
    rows = f"CASE {owner} % 6 WHEN 0 THEN 1 WHEN 1 THEN 2 WHEN 2 THEN 2 ELSE 3 END"
    shared = f"CAST({rows} * 10000000000 + {owner} / 6 AS text)"
    other = f"CAST(90000000000 + {owner} AS text)"
    even = f"{owner} % 2 = 0"
    return (
        f"CASE WHEN {even} THEN {shared} ELSE {other} END",
        f"CASE WHEN {even} THEN {other} ELSE {shared} END",
    )
