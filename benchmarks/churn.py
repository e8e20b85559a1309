"""What the vacuum settings of the schema bring: the same churn with them and with PostgreSQL's defaults.

Two databases of one server that is the bench's own. Its autovacuum looks every second and not every minute: what a
minute brings to a table of this size is what an hour brings to a large one. Bindings are added and ended by the
product's sweep, in the same steps on both sides; after each the dead rows are counted, and an empty sweep and
lookups are timed. Then a snapshot is held while more end, and let go. What vacuum itself cost stands in the
server's log.
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
from bindings.service import BindingService
from tests.store.databases import Server, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled, Sizes

NAMES = "the schema's settings", "PostgreSQL's defaults"
HELD_STEPS = 4
CALLER = Caller(actor="bench")
LOOKUPS = 50
EMPTY_SWEEPS = 5
VACUUM_S = 1.5  # longer than autovacuum's pause
OWN = ("autovacuum_naptime=1s", "log_autovacuum_min_duration=0")
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
    """One of the databases, and what was seen in it, step by step."""

    name: str
    filled: Filled
    service: BindingService
    ended: int = 0
    dead: list[tuple[float, float]] = field(default_factory=list)
    sweeps_ms: list[float] = field(default_factory=list)
    lookups_ms: list[float] = field(default_factory=list)

    def end(self, count: int) -> None:
        """Add bindings that are due, and end them."""
        self.filled.due(count)
        done = expire.expire_due(self.service._database, CALLER, budget_s=300)  # noqa: SLF001 -- the pass itself
        if done.expired != count:
            raise AssertionError(f"{done.expired} ended, {count} were due")
        self.ended += count
        self.filled.run(FLUSH)
        self.service._database.write(lambda tx: tx.connection.execute(text(FLUSH)))  # noqa: SLF001

    def look(self) -> None:
        """Count the dead rows, and time an empty sweep and lookups."""
        self.dead.append((float(self.ended), float(self.filled.run(DEAD).fetchone()[0])))
        self.sweeps_ms += [self.empty_sweep_ms() for _ in range(EMPTY_SWEEPS)]
        for _ in range(LOOKUPS):
            phone = data.phone(3, random.randrange(self.filled.live // 6))
            self.lookups_ms.append(_ms(lambda: self.service.lookup(phone=phone)))  # noqa: B023

    def empty_sweep_ms(self) -> float:
        return _ms(lambda: expire.expire_due(self.service._database, CALLER))  # noqa: SLF001


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def measure(place: Place) -> list[Result]:
    """What differs between the schema's settings and the server's defaults."""
    folder = place.folder()
    own = servers.postgres(folder, *OWN)
    own.start()
    try:
        return _compare(Server(url=own.url, found="the bench's own"), place.sizes, folder / "log")
    finally:
        own.kill()


def _compare(server: Server, sizes: Sizes, log: Path) -> list[Result]:
    with ExitStack() as stack:
        sides = [_opened(stack, server, name, sizes) for name in NAMES]
        _reset(sides[1].filled)
        for _ in range(sizes.churn_steps):
            for side in sides:
                side.end(sizes.churn)
            time.sleep(VACUUM_S)
            for side in sides:
                side.look()
        grown = [side.filled.run(BYTES).fetchone() for side in sides]
        freed = [_after_a_snapshot(side, sizes.churn) for side in sides]
        return _told(sides, grown, freed, log)


def _opened(stack: ExitStack, server: Server, name: str, sizes: Sizes) -> _Side:
    ended = sizes.growth[-2]
    filled = stack.enter_context(data.on_postgres(server, live=ended // LIVE_SHARE, ended=ended))
    service = stack.enter_context(BindingService.open(database_url=filled.url))
    return _Side(name=name, filled=filled, service=service)


def _reset(filled: Filled) -> None:
    for table, names in filled.run(SETTINGS).fetchall():
        filled.run(f"ALTER TABLE {table} RESET ({names})")


def _after_a_snapshot(side: _Side, churn: int) -> tuple[float, float]:
    """An empty sweep, ms: while a snapshot was held, and when autovacuum has had its time without it."""
    with psycopg.connect(side.filled.url) as snapshot:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT 1")
        for _ in range(HELD_STEPS):
            side.end(churn)
        held = side.empty_sweep_ms()
    time.sleep(2 * VACUUM_S)
    return held, median(side.empty_sweep_ms() for _ in range(EMPTY_SWEEPS))


def _told(
    sides: Sequence[_Side], grown: Sequence[Any], freed: Sequence[tuple[float, float]], log: Path
) -> list[Result]:
    vacuums = [_vacuums(log, name_of(side.filled.url)) for side in sides]
    lines = [
        ("most dead rows of bindings", "rows", [max(dead for _, dead in side.dead) for side in sides]),
        ("bindings at the end, rows", "MB", [each[0] / 1e6 for each in grown]),
        ("bindings at the end, indexes", "MB", [each[1] / 1e6 for each in grown]),
        ("empty sweep", "ms", [median(side.sweeps_ms) for side in sides]),
        ("empty sweep beside a snapshot", "ms", [held for held, _ in freed]),
        ("empty sweep 3 s after it", "ms", [after for _, after in freed]),
        ("lookup", "ms", [median(side.lookups_ms) for side in sides]),
        ("vacuums of bindings", "", [float(each.count) for each in vacuums]),
        ("WAL of these vacuums", "MB", [each.wal / 1e6 for each in vacuums]),
        ("time of these vacuums", "s", [each.elapsed_s for each in vacuums]),
    ]
    plot = Plot(
        name="dead-rows",
        title="dead rows of bindings against what was ended",
        x="bindings ended",
        y="dead rows",
        curves=tuple(Curve(name=side.name, points=tuple(side.dead)) for side in sides),
    )
    return [
        Result(
            target=Target(id="vacuum", what=f"{what}, with {NAMES[0]}", unit=unit),
            value=shipped,
            note=f"{default:,.2f} {unit} with {NAMES[1]}",
            plot=plot if number == 0 else None,
        )
        for number, (what, unit, (shipped, default)) in enumerate(lines)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Vacuums:
    count: int
    wal: int
    elapsed_s: float


def _vacuums(log: Path, database: str) -> _Vacuums:
    """What the server's log says of its vacuums of bindings in a database."""
    found = [each for each in VACUUMED.finditer(log.read_text(encoding="utf-8")) if each["database"] == database]
    return _Vacuums(
        count=len(found),
        wal=sum(int(each["wal"]) for each in found),
        elapsed_s=sum(float(each["elapsed"]) for each in found),
    )
