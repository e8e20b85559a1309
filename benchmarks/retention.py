"""How long callers wait while events are moved into partitions, and while old bindings and partitions are deleted.

Callers run in threads throughout, and each call is timed from start to end, so that waits for locks, for the disk
and for this process all count. Three operations run during that, on separate databases: the upgrade that
partitions the events table, with callers that use the SQL of an older service; retention's deletion of bindings,
row by row; and beginning one partition and dropping several, with the binds and reads of the product.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
from alembic import command
from alembic.config import Config
from uuid_utils.compat import uuid7

from benchmarks import bind, data
from benchmarks.measure import Result, Target, p99
from bindings.domain.binding import Caller
from bindings.jobs import retention
from bindings.provider.client import ProviderClient
from bindings.store import events, migrations
from bindings.store.database import Database
from bindings.store.engine import make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes
    from bindings.service import BindingService
    from tests.store.databases import Server

    Span = tuple[float, float]
    Calls = list[tuple[str, Callable[[], object]]]

CALLER = Caller(actor="bench")
MAX_WAIT_S = 1.0
LAST_UNPARTITIONED = "0005"  # the last schema with events in a single table
EVENTS_PER_BINDING = 3  # of a binding that has ended
MONTHS = 6
MONTH = timedelta(days=31)
KEEP_DAYS = 7
BINDERS = 4
PAUSE_S = 0.005  # between calls of a caller, so that the machine is not saturated

# A bind as an older service writes it: two transactions, each with its event.
INTENT = """
    WITH changed AS (
        INSERT INTO bindings (id, mode, phone_a, phone_b, pool_number, app_id, scope, expire_s, state, actor,
            requested_at, send_by, settle_by, held_until, version, change_tx)
        VALUES (%(id)s, 'AXB', %(phone_a)s, %(phone_b)s, '918806', 'bench', 'default', 3600, 'pending', 'bench',
            now(), now() + interval '5 s', now() + interval '16 s', now() + interval '1 h', 1,
            pg_current_xact_id()::text::bigint)
        RETURNING id, version, change_tx)
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT change_tx, id, version, 'requested', clock_timestamp(), 'bench', '{}' FROM changed
"""
OUTCOME = """
    WITH changed AS (
        UPDATE bindings SET state = 'active', bind_id = %(id)s::text, middle_number_a = '1000000000',
            middle_number_b = '1000000000', expires_at = held_until, version = version + 1,
            change_tx = greatest(change_tx, pg_current_xact_id()::text::bigint)
        WHERE id = %(id)s AND state = 'pending'
        RETURNING id, version, change_tx)
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT change_tx, id, version, 'activated', clock_timestamp(), 'bench', '{}' FROM changed
"""
LOOKUP = "SELECT * FROM bindings WHERE phone_a = %s AND held_until > now()"
HISTORY = "SELECT * FROM events WHERE binding_id = (SELECT id FROM bindings WHERE phone_a = %s LIMIT 1)"
NEWEST = "SELECT * FROM events ORDER BY tx DESC, position DESC LIMIT 100"
# Events of bindings that are already deleted: three per binding, spread evenly over a month.
MONTH_OF_EVENTS = """
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT 0, CAST('01800000-0000-7000-8000-' || CAST(100000000000 + n AS text) AS uuid), sequence, kind,
        CAST(%(from)s AS timestamptz) + n * interval '30 days' / %(count)s, 'bench', '{}'
    FROM generate_series(0, %(count)s - 1) AS n,
        (VALUES (1, 'requested'), (2, 'activated'), (3, 'expired')) AS kinds (sequence, kind)
"""

_phones = itertools.count(1)


def measure(context: BenchContext) -> list[Result]:
    """Return the longest waits during the upgrade, deletions, the begin of a partition and the drop of several."""
    server, sizes = context.server, context.sizes
    ended = sizes.events // EVENTS_PER_BINDING
    one_table = data.postgres_database(server, live=max(60, ended // 10), ended=ended, migrate=_to_one_table)
    with one_table as bench_db:
        results = [_upgrade(bench_db, sizes), *_delete_bindings(bench_db, sizes)]
    with _months(server, sizes) as bench_db:
        return results + _drop_partitions(bench_db, sizes)


class _Callers:
    """Threads that repeat their calls until the context ends; leaving it raises the first error of a call."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._finished_calls: list[tuple[str, float, float]] = []
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=call) for call in calls]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for error in self._errors:
            raise error

    def _repeat(self, name: str, call: Callable[[], object]) -> None:
        while not self._stop.wait(PAUSE_S):
            started_at = time.perf_counter()
            try:
                call()
            except BaseException as error:  # noqa: BLE001 -- raised when the context ends
                self._errors.append(error)
                return
            self._finished_calls.append((name, started_at, time.perf_counter()))

    def run_during(self, work: Callable[[], Any]) -> tuple[Any, Span]:
        """Run `work`; return its result and the time span in which it ran."""
        started_at = time.perf_counter()
        result = work()
        return result, (started_at, time.perf_counter())

    def run_alone(self, seconds: float) -> Span:
        """Let only the callers run; return a span of at least `seconds`, after and with a call of every name."""
        self._wait_for_calls()
        started_at = time.perf_counter()
        time.sleep(seconds)
        self._wait_for_calls()
        return started_at, time.perf_counter()

    def _wait_for_calls(self) -> None:
        """Wait until a call of every name has begun and ended from now on, or one has failed."""
        since = time.perf_counter()
        names = {name for name, _ in self._calls}
        while not self._errors and {name for name, begun, _ in self._finished_calls if begun > since} != names:
            time.sleep(PAUSE_S)

    def durations(self, span: Span) -> dict[str, list[float]]:
        """Return the seconds of every call that overlaps a span, by name; valid after the context has ended."""
        durations_by_name: dict[str, list[float]] = {name: [] for name, _ in self._calls}
        for name, started_at, ended in self._finished_calls:
            if started_at < span[1] and ended > span[0]:
                durations_by_name[name].append(ended - started_at)
        return durations_by_name


def _longest(durations: dict[str, list[float]]) -> float:
    return max(seconds for calls in durations.values() for seconds in calls)


def _longest_excess(durations: dict[str, list[float]], undisturbed: dict[str, list[float]]) -> float:
    """Return by how much the longest call exceeds the undisturbed median of its kind."""
    return max(max(calls) - median(undisturbed[name]) for name, calls in durations.items() if calls)


def _describe(durations: dict[str, list[float]], undisturbed: dict[str, list[float]]) -> str:
    """Return the number of calls, and their p99 and maximum during the operation and without it."""
    return ", ".join(
        f"{len(calls):,} x {name} p99 {p99(calls) * 1e3:.0f} ms, most {max(calls) * 1e3:.0f}"
        f" (without {p99(undisturbed[name]) * 1e3:.0f}, {max(undisturbed[name]) * 1e3:.0f})"
        for name, calls in durations.items()
        if calls
    )


def _seconds(span: Span) -> float:
    return span[1] - span[0]


# The upgrade.


def _to_one_table(url: str) -> None:
    """Migrate a database to the last schema without partitions."""
    config = Config()
    config.set_main_option("script_location", str(migrations.scripts()))
    engine = make_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, LAST_UNPARTITIONED)
        connection.commit()
    engine.dispose()


def _upgrade(bench_db: BenchDatabase, sizes: Sizes) -> Result:
    (count,) = bench_db.execute("SELECT count(*) FROM events").fetchone()
    with ExitStack() as stack:
        connect = partial(psycopg.connect, bench_db.url, autocommit=True, prepare_threshold=None)
        connections = [stack.enter_context(connect()) for _ in range(4)]
        calls: Calls = [
            ("bind", partial(_bind_with_sql, connections[0])),
            ("bind", partial(_bind_with_sql, connections[1])),
            ("lookup", lambda: connections[2].execute(LOOKUP, (_random_phone(bench_db),)).fetchall()),
            ("events", lambda: _read_with_sql(connections[3], bench_db)),
        ]
        with _Callers(calls) as callers:
            before = callers.run_alone(sizes.baseline_s)
            _, span = callers.run_during(lambda: migrations.upgrade(bench_db.url))
            callers.run_alone(sizes.baseline_s)
    durations, undisturbed = callers.durations(span), callers.durations(before)
    return Result(
        target=Target(
            id="locks",
            title=f"longest wait, upgrade with {count:,} events in one table",
            bound=MAX_WAIT_S,
            unit="s",
        ),
        value=_longest(durations),
        note=f"in {_seconds(span):.1f} s; {_describe(durations, undisturbed)}",
    )


def _bind_with_sql(connection: psycopg.Connection) -> None:
    number = next(_phones)
    values = {"id": uuid7(), "phone_a": f"918{number:010}", "phone_b": f"919{number:010}"}
    for statement in (INTENT, OUTCOME):
        with connection.transaction():
            connection.execute(statement, values)


def _read_with_sql(connection: psycopg.Connection, bench_db: BenchDatabase) -> None:
    with connection.transaction():
        connection.execute(HISTORY, (_random_phone(bench_db),)).fetchall()
        connection.execute(NEWEST).fetchall()


def _random_phone(bench_db: BenchDatabase) -> str:
    return data.phone(random.choice((1, 2, 3)), random.randrange(bench_db.live // 6))


# Retention.


def _product_calls(service: BindingService, bench_db: BenchDatabase) -> Calls:
    """Return calls of the product: binds, lookups, and a reader that follows the event feed."""
    cursor = service.runtime.database.read(events.feed_end)

    def follow() -> None:
        nonlocal cursor
        page = service.events(after=cursor, limit=100)
        cursor = page.data[-1].cursor if page.data else cursor

    return [
        *(("bind", partial(bind.bind_once, service)) for _ in range(BINDERS)),
        ("lookup", lambda: service.lookup(phone=_random_phone(bench_db))),
        ("feed", follow),
    ]


@contextmanager
def _service(bench_db: BenchDatabase) -> Iterator[BindingService]:
    with (
        mock.patch.object(ProviderClient, "bind", bind.instant_bind),
        bind.open_service(bench_db.url, retention_days=KEEP_DAYS) as service,
    ):
        yield service


def _delete_bindings(bench_db: BenchDatabase, sizes: Sizes) -> list[Result]:
    """Run retention over bindings of which nearly all ended more than a day ago."""
    with _service(bench_db) as service, _Callers(_product_calls(service, bench_db)) as callers:
        before = callers.run_alone(sizes.baseline_s)
        result, span = callers.run_during(lambda: retention.apply_retention(service.runtime.database, CALLER, 1))
    durations, undisturbed = callers.durations(span), callers.durations(before)
    whole = "all of them" if result.finished else "until the job's time was over"
    return [
        Result(
            target=Target(id="locks", title="ended bindings deleted by retention", unit="rows/s"),
            value=result.bindings / _seconds(span),
            note=f"{result.bindings:,} in {_seconds(span):.1f} s, {whole}",
        ),
        Result(
            target=Target(
                id="locks", title="longest wait beyond the usual, bindings deleted", bound=MAX_WAIT_S, unit="s"
            ),
            value=_longest_excess(durations, undisturbed),
            note=_describe(durations, undisturbed),
        ),
    ]


@contextmanager
def _months(server: Server, sizes: Sizes) -> Iterator[BenchDatabase]:
    """Create a database with months of events, in partitions begun by the retention job, and live bindings."""

    def migrate(url: str) -> None:
        migrations.upgrade(url)
        first_month = datetime.now(UTC) - (MONTHS + 1) * MONTH
        with psycopg.connect(url, autocommit=True) as connection:
            for month in range(MONTHS):
                _fill_month(connection, first_month + month * MONTH, sizes.events // MONTHS // EVENTS_PER_BINDING)
                _begin_partition(url, first_month + (month + 1) * MONTH)
            _fill_month(connection, first_month + MONTHS * MONTH, 1)

    with data.postgres_database(server, live=sizes.live, ended=0, migrate=migrate) as bench_db:
        yield bench_db


def _fill_month(connection: psycopg.Connection, month_start: datetime, count: int) -> None:
    connection.execute(MONTH_OF_EVENTS, {"from": month_start, "count": count})


def _begin_partition(url: str, now: datetime) -> None:
    """Run the retention job at a past instant, when a month had begun."""
    database = Database(url, read_clock=lambda: now)
    begun = retention.apply_retention(database, CALLER, None).partitions_begun
    database.close()
    if begun != 1:
        raise AssertionError("no partition was begun")


def _drop_partitions(bench_db: BenchDatabase, sizes: Sizes) -> list[Result]:
    with _service(bench_db) as service, _Callers(_product_calls(service, bench_db)) as callers:
        before = callers.run_alone(sizes.baseline_s)
        begun, begin_span = callers.run_during(
            lambda: retention.apply_retention(service.runtime.database, CALLER, None)
        )
        callers.run_alone(sizes.baseline_s)
        dropped, drop_span = callers.run_during(service.apply_retention)
        callers.run_alone(sizes.baseline_s)
    if (begun.partitions_begun, dropped.partitions) != (1, MONTHS):
        raise AssertionError(f"{begun.partitions_begun} begun, {dropped.partitions} dropped")
    undisturbed = callers.durations(before)
    return [
        Result(
            target=Target(id="locks", title=f"longest wait beyond the usual, {title}", bound=MAX_WAIT_S, unit="s"),
            value=_longest_excess(callers.durations(span), undisturbed),
            note=f"in {_seconds(span):.2f} s; {_describe(callers.durations(span), undisturbed)}",
        )
        for title, span in (
            ("a month begins", begin_span),
            (f"{dropped.partitions} months of {dropped.events:,} events go", drop_span),
        )
    ]
