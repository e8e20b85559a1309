"""Databases for the bench, and rows in bulk: live bindings, ten times as much history, and what is due.

A phone of the bench is looked up by how many live bindings it has: see `phone`. Row numbers make every value,
in the one SQL that both databases speak, so that nothing passes through Python on its way in.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from bindings.store import migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.store.databases import Server

DAY_S = 86_400
KEPT_S = DAY_S // 2  # a kept database is filled anew after this: its live bindings must not end meanwhile
ID, ID_FROM = "01900000-0000-7000-8000-", 100_000_000_000  # an id is this and a row's number
NUMBERS = 10_000  # middle numbers, each used again and again
# Row numbers of what `Filled.due` adds: past every other, and past those of an earlier run in a kept database.
DUE_FROM = 10_000_000_000 + int(time.time() - 1_790_000_000) * 10_000


PEERS = ("bindings", "psycopg", "orm", "redis", "redis-always", "bindings-sqlite", "sqlite3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much data and how many rounds."""

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
    exported: int
    lag_s: int
    dead: tuple[int, ...]
    churn: int
    churn_steps: int
    peers: tuple[str, ...]
    peer_s: float
    events: int
    calm_s: float


QUICK = Sizes(
    name="quick",
    live=1_200,
    ended=12_000,
    sqlite_live=1_200,
    sqlite_ended=12_000,
    rounds=3,
    lookups=20,
    due=1_500,
    burst=3_000,
    bind_rounds=1,
    bind_s=0.5,
    starts=3,
    growth=(600, 12_000),
    overdue=1_000,
    doubts=100,
    exported=5_000,
    lag_s=1,
    dead=(100, 1_000),
    churn=300,
    churn_steps=2,
    peers=("redis", "bindings-sqlite"),
    peer_s=0.2,
    events=20_000,
    calm_s=0.5,
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
    exported=100_000,
    lag_s=15,
    dead=(1_000, 10_000, 50_000),
    churn=5_000,
    churn_steps=20,
    peers=PEERS,
    peer_s=3.0,
    events=1_000_000,
    calm_s=5.0,
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
    exported=1_000_000,
    lag_s=30,
    dead=(1_000, 10_000, 50_000, 200_000),
    churn=20_000,
    churn_steps=20,
    peers=PEERS,
    peer_s=5.0,
    events=10_000_000,
    calm_s=10.0,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A migrated database with bindings in it, and a way to run SQL in it."""

    url: str
    live: int
    run: Callable[[str], Any]
    dialect: Dialect

    def due(self, count: int, *, after_s: float = -3_600.0, over_s: int = 3_000) -> int:
        """Add `count` active bindings that end, evenly, in the `over_s` seconds from `after_s` on (from now).

        Their numbers, from the one that is returned on, make their `binding_id`.
        """
        at = int(time.time())
        first = _taken(count)
        ends = f"{at + after_s} + (n % {count}) * {over_s / count}"
        times = {"requested_at": f"{at} - 7200", "expires_at": ends, "ended_at": "NULL"}
        pair = "CAST(50000000000 + n AS text)", "CAST(70000000000 + n AS text)"
        self.run(_insert(self.dialect, "active", pair, times) + self.dialect.numbers(first, count))
        return first

    def doubt(self, count: int) -> None:
        """Add `count` bindings in doubt, for a day."""
        at = int(time.time())
        times = {"requested_at": f"{at} - 600", "expires_at": f"{at} + {DAY_S}", "ended_at": "NULL"}
        pair = "CAST(50000000000 + n AS text)", "CAST(70000000000 + n AS text)"
        self.run(_insert(self.dialect, "in_doubt", pair, times) + self.dialect.numbers(_taken(count), count))

    def wait_swept(self, longest_s: float) -> None:
        """Wait until nothing is overdue any more, whoever ends it; `AssertionError` after `longest_s`."""
        until = time.monotonic() + longest_s
        while self._is_overdue():
            if time.monotonic() > until:
                raise AssertionError("the backlog does not end")
            time.sleep(0.2)

    def _is_overdue(self) -> bool:
        now = self.dialect.instant(str(int(time.time())))
        due = f"SELECT 1 FROM bindings WHERE state = 'active' AND expires_at <= {now} LIMIT 1"
        return self.run(due).fetchone() is not None


_next_due = itertools.count(DUE_FROM)


def _taken(count: int) -> int:
    """The first of `count` row numbers that nobody had."""
    return min(next(_next_due) for _ in range(count))


def binding_id(number: int) -> str:
    """The id of the binding with that row number."""
    return f"{ID}{ID_FROM + number}"


def phone(rows: int, number: int) -> str:
    """The digits of the bench's phone that has `rows` (1 to 3) live bindings and ten times as many ended ones."""
    return str(rows * 10**10 + number)


def middle_number(number: int) -> str:
    """The digits of one of the bench's middle numbers (0 to `NUMBERS`)."""
    return str(1_000_000_000 + number)


@contextmanager
def on_postgres(
    server: Server,
    *,
    live: int,
    ended: int,
    keep: bool = False,
    migrate: Callable[[str], object] = migrations.upgrade,
) -> Iterator[Filled]:
    """A filled PostgreSQL database; dropped at the end, whoever is connected to it, unless it is to be kept.

    One that an earlier run kept is taken as it is: what that run bound or ended in it is still there. `migrate`
    makes the tables before anything is filled in.
    """
    name = f"bench_kept_{live}_{ended}" if keep else f"bench_{os.getpid()}_{time.time_ns()}"
    with psycopg.connect(server.url, autocommit=True) as admin:
        kept = keep and _kept(admin, name)
        if not kept:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {name}")
        try:
            url = server.address(name)
            migrate(url)
            with psycopg.connect(url, autocommit=True) as connection:
                filled = Filled(url=url, live=live, run=connection.execute, dialect=_POSTGRES)
                if not kept:
                    _fill(filled, ended)
                    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
                        connection.execute(statement)
                    admin.execute(f"COMMENT ON DATABASE {name} IS '{int(time.time())}'")
                yield filled
        finally:
            if not keep:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _kept(admin: psycopg.Connection, name: str) -> bool:
    """Whether an earlier run filled this database to the end, not too long ago."""
    told = admin.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (name,)
    ).fetchone()
    return told is not None and told[0] is not None and time.time() - int(told[0]) < KEPT_S


@contextmanager
def on_sqlite(folder: Path, *, live: int, ended: int) -> Iterator[Filled]:
    """A filled SQLite database; the folder is the caller's to remove."""
    file = folder / "bench.db"
    url = f"sqlite:///{file}"
    migrations.upgrade(url)
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # of this connection only: loading, and adding what is due
        filled = Filled(url=url, live=live, run=connection.execute, dialect=_SQLITE)
        _fill(filled, ended)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield filled
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The few words in which the two databases differ."""

    instant: Callable[[str], str]
    id: Callable[[str], str]
    numbers: Callable[[int, int], str]
    indexes: str
    unchecked: str
    checked: str


_POSTGRES = Dialect(
    instant=lambda seconds: f"to_timestamp({seconds})",
    id=lambda text: f"CAST({text} AS uuid)",
    numbers=lambda first, count: f"generate_series({first}::bigint, {first + count - 1}) AS g(n)",
    indexes="SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'bindings' AND indexname !~ '^pk_'",
    unchecked="SET session_replication_role = replica",  # every event's binding is there: it was just read
    checked="RESET session_replication_role",
)
_SQLITE = Dialect(
    instant=lambda seconds: f"strftime('%Y-%m-%dT%H:%M:%S.000000Z', {seconds}, 'unixepoch')",
    id=lambda text: text,
    numbers=lambda first, count: (
        f"(WITH RECURSIVE g(n) AS (VALUES({first}) UNION ALL SELECT n + 1 FROM g WHERE n < {first + count - 1})"
        " SELECT n FROM g)"
    ),
    indexes="SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'bindings' AND sql <> ''",
    unchecked="PRAGMA foreign_keys = OFF",
    checked="PRAGMA foreign_keys = ON",
)


def _fill(filled: Filled, ended: int) -> None:
    """History first, then what is live, with the indexes built afterwards."""
    at = int(time.time())
    indexes = list(filled.run(filled.dialect.indexes).fetchall())
    for name, _ in indexes:
        filled.run(f"DROP INDEX {name}")
    past = f"{at} - {DAY_S} - 10 * n"
    times = {"requested_at": f"{past} - {DAY_S}", "expires_at": past, "ended_at": past}
    numbers = filled.dialect.numbers(0, ended)
    filled.run(_insert(filled.dialect, "expired", _pair(f"(n % {filled.live})"), times) + numbers)
    times = {
        "requested_at": f"{at} - 1800 + n % 1500",
        "expires_at": f"{at} + {DAY_S} + n % {2 * DAY_S}",  # nothing ends while the bench runs
        "ended_at": "NULL",
    }
    numbers = filled.dialect.numbers(ended, filled.live)
    filled.run(_insert(filled.dialect, "active", _pair(f"(n - {ended})"), times) + numbers)
    for _, definition in indexes:
        filled.run(definition)
    _tell(filled, at)


def _tell(filled: Filled, at: int) -> None:
    """The events of every binding: two, and the third of those that have ended."""
    filled.run(filled.dialect.unchecked)
    kinds = (("requested", 1, "requested_at"), ("activated", 2, "answered_at"), ("expired", 3, "ended_at"))
    for kind, sequence, column in kinds:
        filled.run(
            "INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)"
            f" SELECT 0, id, {sequence}, '{kind}', {column}, 'bench', '{{}}' FROM bindings"
            f" WHERE {column} <= {filled.dialect.instant(str(at))} ORDER BY id"
        )
    filled.run(filled.dialect.checked)


def _insert(dialect: Dialect, state: str, pair: tuple[str, str], times: dict[str, str]) -> str:
    """An INSERT of a row for each number `n` of what is put behind it."""
    requested, expires, ended = times["requested_at"], times["expires_at"], times["ended_at"]
    number = f"CAST(1000000000 + n % {NUMBERS} AS text)"
    values = {
        "id": dialect.id(f"'{ID}' || CAST({ID_FROM} + n AS text)"),
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
        "held_until": dialect.instant(f"{expires} + 864"),
        "ended_at": ended if ended == "NULL" else dialect.instant(ended),
        "version": "2" if ended == "NULL" else "3",
    }
    columns, row = ", ".join(values), ", ".join(values.values())
    return f"INSERT INTO bindings ({columns}) SELECT {row} FROM "


def _pair(owner: str) -> tuple[str, str]:
    """Of six rows the first has a phone of its own, the next two share one, the last three share one.

    The phone stands on side a in every other row, so that a lookup finds both sides.
    """
    rows = f"CASE {owner} % 6 WHEN 0 THEN 1 WHEN 1 THEN 2 WHEN 2 THEN 2 ELSE 3 END"
    shared = f"CAST({rows} * 10000000000 + {owner} / 6 AS text)"
    other = f"CAST(90000000000 + {owner} AS text)"
    even = f"{owner} % 2 = 0"
    return (
        f"CASE WHEN {even} THEN {shared} ELSE {other} END",
        f"CASE WHEN {even} THEN {other} ELSE {shared} END",
    )
