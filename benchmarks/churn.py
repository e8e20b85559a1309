"""Effect of the schema's vacuum settings: the same churn with them and with PostgreSQL's defaults.

Both databases are on one server that this measure starts. Its autovacuum runs every second instead of every
minute: relative to its size, a table this small changes as much in a minute as a large one in an hour. Bindings
are added and then expired by the product's job, in the same steps on both sides; after each step the dead rows are
counted, and an empty run of the job and lookups are timed. Then a snapshot is held while more bindings expire, and
released. The cost of vacuum itself is read from the server's log.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import text

from benchmarks import data, servers
from benchmarks.bench_context import LIVE_SHARE
from benchmarks.measure import Result, Target
from benchmarks.plot import Curve, Plot
from bindings.domain.binding import Caller
from bindings.jobs import expire
from bindings.jobs.batches import DueBatches
from bindings.service import BindingService
from bindings.store.temporary_database import name_of
from tests.store.databases import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes

NAMES = "the schema's settings", "PostgreSQL's defaults"
HELD_STEPS = 4
CALLER = Caller(actor="bench")
LOOKUPS = 50
EMPTY_SWEEPS = 5
VACUUM_S = 1.5  # longer than the interval of autovacuum
SERVER_SETTINGS = ("autovacuum_naptime=1s", "log_autovacuum_min_duration=0")
SETTINGS = """
    SELECT relname, string_agg(split_part(setting, '=', 1), ', ') FROM pg_class, unnest(reloptions) AS setting
    WHERE setting LIKE 'autovacuum%' AND relkind = 'r' GROUP BY relname
"""
DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'bindings'"
BYTES = "SELECT pg_relation_size('bindings'), pg_indexes_size('bindings')"
FLUSH = "SELECT pg_stat_force_next_flush()"
VACUUMED = re.compile(
    r'vacuum of table "(?P<database>[^".]+)\.public\.bindings":'
    r".*?WAL usage: \d+ records, \d+ full page images, (?P<wal>\d+) bytes"
    r".*?elapsed: (?P<elapsed>[\d.]+) s",
    re.DOTALL,
)


@dataclass(kw_only=True)
class _Side:
    """One of the two databases, and its measurements step by step."""

    name: str
    bench_db: BenchDatabase
    service: BindingService
    ended: int = 0
    dead_rows: list[tuple[float, float]] = field(default_factory=list)
    sweeps_ms: list[float] = field(default_factory=list)
    lookups_ms: list[float] = field(default_factory=list)

    def expire(self, count: int) -> None:
        """Add `count` bindings that are due, and expire them."""
        self.bench_db.add_due(count)
        result = expire.expire_due(DueBatches(database=self.service.runtime.database, caller=CALLER, budget_s=300))
        if result.expired != count:
            raise AssertionError(f"{result.expired} ended, {count} were due")
        self.ended += count
        self.bench_db.execute(FLUSH)
        self.service.runtime.database.write(lambda tx: tx.connection.execute(text(FLUSH)))

    def measure(self) -> None:
        """Count the dead rows, and time lookups and an expiry run that has nothing to do."""
        self.dead_rows.append((float(self.ended), float(self.bench_db.execute(DEAD).fetchone()[0])))
        self.sweeps_ms += [self.empty_sweep_ms() for _ in range(EMPTY_SWEEPS)]
        for _ in range(LOOKUPS):
            phone = data.phone(3, random.randrange(self.bench_db.live // 6))
            self.lookups_ms.append(_milliseconds(lambda: self.service.lookup(phone=phone)))  # noqa: B023

    def empty_sweep_ms(self) -> float:
        return _milliseconds(
            lambda: expire.expire_due(DueBatches(database=self.service.runtime.database, caller=CALLER))
        )


def _milliseconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return (time.perf_counter() - started_at) * 1e3


def measure(context: BenchContext) -> list[Result]:
    """Return the figures with the schema's settings, with those under the server's defaults in the notes."""
    folder = context.folder()
    server = servers.postgres(folder, *SERVER_SETTINGS)
    server.start()
    try:
        return _compare(Server(url=server.url, origin="the bench's own"), context.sizes, folder / "log")
    finally:
        server.kill()


def _compare(server: Server, sizes: Sizes, log: Path) -> list[Result]:
    with ExitStack() as stack:
        sides = [_open_side(stack, server, name, sizes) for name in NAMES]
        _reset(sides[1].bench_db)
        for _ in range(sizes.churn_steps):
            for side in sides:
                side.expire(sizes.churn)
            time.sleep(VACUUM_S)
            for side in sides:
                side.measure()
        sizes_on_disk = [side.bench_db.execute(BYTES).fetchone() for side in sides]
        snapshot_times = [_after_a_snapshot(side, sizes.churn) for side in sides]
        return _results(sides, sizes_on_disk, snapshot_times, log)


def _open_side(stack: ExitStack, server: Server, name: str, sizes: Sizes) -> _Side:
    ended = sizes.growth[-2]
    bench_db = stack.enter_context(data.postgres_database(server, live=ended // LIVE_SHARE, ended=ended))
    service = stack.enter_context(BindingService.open(database_url=bench_db.url))
    return _Side(name=name, bench_db=bench_db, service=service)


def _reset(bench_db: BenchDatabase) -> None:
    for table, names in bench_db.execute(SETTINGS).fetchall():
        bench_db.execute(f"ALTER TABLE {table} RESET ({names})")


def _after_a_snapshot(side: _Side, churn: int) -> tuple[float, float]:
    """Return milliseconds of an empty expiry run: while a snapshot is held, and after its release and a vacuum."""
    with psycopg.connect(side.bench_db.url) as snapshot:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT 1")
        for _ in range(HELD_STEPS):
            side.expire(churn)
        during = side.empty_sweep_ms()
    time.sleep(2 * VACUUM_S)
    return during, median(side.empty_sweep_ms() for _ in range(EMPTY_SWEEPS))


def _results(
    sides: Sequence[_Side], sizes_on_disk: Sequence[Any], snapshot_times: Sequence[tuple[float, float]], log: Path
) -> list[Result]:
    vacuums = [_vacuums(log, name_of(side.bench_db.url)) for side in sides]
    lines = [
        (
            "most dead rows of bindings",
            "rows",
            [max(rows for _, rows in side.dead_rows) for side in sides],
        ),
        ("bindings at the end, rows", "MB", [size[0] / 1e6 for size in sizes_on_disk]),
        ("bindings at the end, indexes", "MB", [size[1] / 1e6 for size in sizes_on_disk]),
        ("empty sweep", "ms", [median(side.sweeps_ms) for side in sides]),
        ("empty sweep beside a snapshot", "ms", [during for during, _ in snapshot_times]),
        ("empty sweep 3 s after it", "ms", [after for _, after in snapshot_times]),
        ("lookup", "ms", [median(side.lookups_ms) for side in sides]),
        ("vacuums of bindings", "", [float(vacuum.count) for vacuum in vacuums]),
        ("WAL of these vacuums", "MB", [vacuum.wal / 1e6 for vacuum in vacuums]),
        ("time of these vacuums", "s", [vacuum.elapsed_s for vacuum in vacuums]),
    ]
    plot = Plot(
        name="dead-rows",
        title="dead rows of bindings against what was ended",
        x="bindings ended",
        y="dead rows",
        curves=tuple(Curve(name=side.name, points=tuple(side.dead_rows)) for side in sides),
    )
    return [
        Result(
            target=Target(id="churn", title=f"{title}, with {NAMES[0]}", unit=unit),
            value=with_settings,
            note=f"{default:,.2f} {unit} with {NAMES[1]}",
            plot=plot if number == 0 else None,
        )
        for number, (title, unit, (with_settings, default)) in enumerate(lines)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vacuums:
    count: int
    wal: int
    elapsed_s: float


def _vacuums(log: Path, database: str) -> _Vacuums:
    """Return the vacuums of `bindings` in a database, according to the server's log."""
    entries = VACUUMED.finditer(log.read_text(encoding="utf-8"))
    matches = [entry for entry in entries if entry["database"] == database]
    return _Vacuums(
        count=len(matches),
        wal=sum(int(match["wal"]) for match in matches),
        elapsed_s=sum(float(match["elapsed"]) for match in matches),
    )
