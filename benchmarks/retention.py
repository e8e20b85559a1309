"""Upgrading and forgetting: how long anybody waits while events become partitions, and while old ones go.

Callers go on in threads, each call timed from its beginning to its end, so that a wait for a lock, for the disk
or for this process counts alike. Three things are done beside them, on databases of their own: the upgrade that
makes partitions of one table, with callers that speak SQL as an older service would; retention's deletion of
bindings, row by row; and a month's begin and the end of several, with the product's own binds and reads.
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
from bindings.jobs import retention
from bindings.provider.client import ProviderClient
from bindings.store import events, migrations
from bindings.store.database import Database
from bindings.store.engine import make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from benchmarks.bench_context import Place
    from benchmarks.data import Filled, Sizes
    from bindings.service import BindingService
    from tests.store.databases import Server

    Span = tuple[float, float]
    Calls = list[tuple[str, Callable[[], object]]]

LONGEST_S = 1.0
ONE_TABLE = "0005"  # the last schema whose events are not in partitions
OF_A_BINDING = 3  # events of one that has ended
MONTHS = 6
MONTH = timedelta(days=31)
KEEP_DAYS = 7
BINDERS = 4
PAUSE_S = 0.005  # of each caller, between calls: the machine must not be what they wait for

# A bind as an older service writes it: two transactions, of which each tells its event.
INTENT = """
    WITH made AS (
        INSERT INTO bindings (id, mode, phone_a, phone_b, pool_number, app_id, scope, expire_s, state, actor,
            requested_at, send_by, settle_by, held_until, version, change_tx)
        VALUES (%(id)s, 'AXB', %(phone_a)s, %(phone_b)s, '918806', 'bench', 'default', 3600, 'pending', 'bench',
            now(), now() + interval '5 s', now() + interval '16 s', now() + interval '1 h', 1,
            pg_current_xact_id()::text::bigint)
        RETURNING id, version, change_tx)
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT change_tx, id, version, 'requested', clock_timestamp(), 'bench', '{}' FROM made
"""
OUTCOME = """
    WITH made AS (
        UPDATE bindings SET state = 'active', bind_id = %(id)s::text, middle_number_a = '1000000000',
            middle_number_b = '1000000000', expires_at = held_until, version = version + 1,
            change_tx = greatest(change_tx, pg_current_xact_id()::text::bigint)
        WHERE id = %(id)s AND state = 'pending'
        RETURNING id, version, change_tx)
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT change_tx, id, version, 'activated', clock_timestamp(), 'bench', '{}' FROM made
"""
LOOKUP = "SELECT * FROM bindings WHERE phone_a = %s AND held_until > now()"
HISTORY = "SELECT * FROM events WHERE binding_id = (SELECT id FROM bindings WHERE phone_a = %s LIMIT 1)"
NEWEST = "SELECT * FROM events ORDER BY tx DESC, position DESC LIMIT 100"
# The events of bindings that are gone already: three each, evenly over a month.
MONTH_OF_EVENTS = """
    INSERT INTO events (tx, binding_id, sequence, kind, at, actor, detail)
    SELECT 0, CAST('01800000-0000-7000-8000-' || CAST(100000000000 + n AS text) AS uuid), sequence, kind,
        CAST(%(from)s AS timestamptz) + n * interval '30 days' / %(count)s, 'bench', '{}'
    FROM generate_series(0, %(count)s - 1) AS n,
        (VALUES (1, 'requested'), (2, 'activated'), (3, 'expired')) AS told (sequence, kind)
"""

_phones = itertools.count(1)


def measure(place: Place) -> list[Result]:
    """The longest waits beside the upgrade, beside deletions, and beside a month's begin and end."""
    server, sizes = place.server, place.sizes
    ended = sizes.events // OF_A_BINDING
    one_table = data.on_postgres(server, live=max(60, ended // 10), ended=ended, migrate=_to_one_table)
    with one_table as filled:
        results = [_upgrade(filled, sizes), *_bindings(filled, sizes)]
    with _months(server, sizes) as filled:
        return results + _partitions(filled, sizes)


class _Callers:
    """Threads that call again and again, until this context ends; it raises what one of them met."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._took: list[tuple[str, float, float]] = []
        self._faults: list[BaseException] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=call) for call in calls]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        for fault in self._faults:
            raise fault

    def _go_on(self, name: str, call: Callable[[], object]) -> None:
        while not self._done.wait(PAUSE_S):
            began = time.perf_counter()
            try:
                call()
            except BaseException as error:  # noqa: BLE001 -- raised when the context ends
                self._faults.append(error)
                return
            self._took.append((name, began, time.perf_counter()))

    def beside(self, work: Callable[[], Any]) -> tuple[Any, Span]:
        """What `work` returns, and when it ran."""
        began = time.perf_counter()
        done = work()
        return done, (began, time.perf_counter())

    def alone(self, seconds: float) -> Span:
        """Let the callers be alone for some time; the first call of each is over by then."""
        time.sleep(seconds / 5)
        return self.beside(lambda: time.sleep(seconds))[1]

    def took(self, span: Span) -> dict[str, list[float]]:
        """Seconds of every call that was under way in a span, by its name; to be asked after the end."""
        found: dict[str, list[float]] = {name: [] for name, _ in self._calls}
        for name, began, ended in self._took:
            if began < span[1] and ended > span[0]:
                found[name].append(ended - began)
        return found


def _longest(took: dict[str, list[float]]) -> float:
    return max(seconds for calls in took.values() for seconds in calls)


def _beyond(took: dict[str, list[float]], usual: dict[str, list[float]]) -> float:
    """The longest wait of any call beyond the median of its like."""
    return max(max(calls) - median(usual[name]) for name, calls in took.items() if calls)


def _beside(took: dict[str, list[float]], usual: dict[str, list[float]]) -> str:
    """How many calls there were, and their p99 with what was done and without."""
    return ", ".join(
        f"{len(calls):,} x {name} p99 {p99(calls) * 1e3:.0f} ms, most {max(calls) * 1e3:.0f}"
        f" (without {p99(usual[name]) * 1e3:.0f}, {max(usual[name]) * 1e3:.0f})"
        for name, calls in took.items()
        if calls
    )


def _seconds(span: Span) -> float:
    return span[1] - span[0]


# The upgrade.


def _to_one_table(url: str) -> None:
    """Bring a database to the last schema before the partitions."""
    config = Config()
    config.set_main_option("script_location", str(migrations.scripts()))
    engine = make_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, ONE_TABLE)
        connection.commit()
    engine.dispose()


def _upgrade(filled: Filled, sizes: Sizes) -> Result:
    (count,) = filled.run("SELECT count(*) FROM events").fetchone()
    with ExitStack() as stack:
        open_one = partial(psycopg.connect, filled.url, autocommit=True, prepare_threshold=None)
        connections = [stack.enter_context(open_one()) for _ in range(4)]
        calls: Calls = [
            ("bind", partial(_bind_by_sql, connections[0])),
            ("bind", partial(_bind_by_sql, connections[1])),
            ("lookup", lambda: connections[2].execute(LOOKUP, (_a_phone(filled),)).fetchall()),
            ("events", lambda: _read_by_sql(connections[3], filled)),
        ]
        with _Callers(calls) as callers:
            before = callers.alone(sizes.calm_s)
            _, span = callers.beside(lambda: migrations.upgrade(filled.url))
            callers.alone(sizes.calm_s)
    took, usual = callers.took(span), callers.took(before)
    return Result(
        target=Target(
            id="locks", what=f"longest wait, upgrade with {count:,} events in one table", bound=LONGEST_S, unit="s"
        ),
        value=_longest(took),
        note=f"in {_seconds(span):.1f} s; {_beside(took, usual)}",
    )


def _bind_by_sql(connection: psycopg.Connection) -> None:
    number = next(_phones)
    values = {"id": uuid7(), "phone_a": f"918{number:010}", "phone_b": f"919{number:010}"}
    for statement in (INTENT, OUTCOME):
        with connection.transaction():
            connection.execute(statement, values)


def _read_by_sql(connection: psycopg.Connection, filled: Filled) -> None:
    with connection.transaction():
        connection.execute(HISTORY, (_a_phone(filled),)).fetchall()
        connection.execute(NEWEST).fetchall()


def _a_phone(filled: Filled) -> str:
    return data.phone(random.choice((1, 2, 3)), random.randrange(filled.live // 6))


# Retention.


def _of_the_product(service: BindingService, filled: Filled) -> Calls:
    """Binds, lookups, and a reader who follows the feed."""
    cursor = service.database.read(events.feed_end)

    def follow() -> None:
        nonlocal cursor
        found = service.events(after=cursor, limit=100)
        cursor = found.data[-1].cursor if found.data else cursor

    return [
        *(("bind", partial(bind.bind_once, service)) for _ in range(BINDERS)),
        ("lookup", lambda: service.lookup(phone=_a_phone(filled))),
        ("feed", follow),
    ]


@contextmanager
def _service(filled: Filled) -> Iterator[BindingService]:
    with (
        mock.patch.object(ProviderClient, "bind", bind.made_at_once),
        bind.opened(filled.url, retention_days=KEEP_DAYS) as service,
    ):
        yield service


def _bindings(filled: Filled, sizes: Sizes) -> list[Result]:
    """One pass over bindings of which nearly all ended more than a day ago."""
    with _service(filled) as service, _Callers(_of_the_product(service, filled)) as callers:
        before = callers.alone(sizes.calm_s)
        done, span = callers.beside(lambda: retention.apply_retention(service.database, 1))
    took, usual = callers.took(span), callers.took(before)
    whole = "all of them" if done.finished else "until the pass's time was over"
    return [
        Result(
            target=Target(id="locks", what="ended bindings deleted by retention", unit="rows/s"),
            value=done.bindings / _seconds(span),
            note=f"{done.bindings:,} in {_seconds(span):.1f} s, {whole}",
        ),
        Result(
            target=Target(
                id="locks", what="longest wait beyond the usual, bindings deleted", bound=LONGEST_S, unit="s"
            ),
            value=_beyond(took, usual),
            note=_beside(took, usual),
        ),
    ]


@contextmanager
def _months(server: Server, sizes: Sizes) -> Iterator[Filled]:
    """Months of events in partitions that the product's own pass began, and then what is live."""

    def migrate(url: str) -> None:
        migrations.upgrade(url)
        began = datetime.now(UTC) - (MONTHS + 1) * MONTH
        with psycopg.connect(url, autocommit=True) as connection:
            for month in range(MONTHS):
                _fill_month(connection, began + month * MONTH, sizes.events // MONTHS // OF_A_BINDING)
                _turn(url, began + (month + 1) * MONTH)
            _fill_month(connection, began + MONTHS * MONTH, 1)

    with data.on_postgres(server, live=sizes.live, ended=0, migrate=migrate) as filled:
        yield filled


def _fill_month(connection: psycopg.Connection, began: datetime, count: int) -> None:
    connection.execute(MONTH_OF_EVENTS, {"from": began, "count": count})


def _turn(url: str, now: datetime) -> None:
    """Run the pass at an instant of the past, when a month had begun."""
    database = Database(url, read_clock=lambda: now)
    begun = retention.apply_retention(database, None).partitions_begun
    database.close()
    if begun != 1:
        raise AssertionError("no partition was begun")


def _partitions(filled: Filled, sizes: Sizes) -> list[Result]:
    with _service(filled) as service, _Callers(_of_the_product(service, filled)) as callers:
        before = callers.alone(sizes.calm_s)
        begun, began = callers.beside(lambda: retention.apply_retention(service.database, None))
        callers.alone(sizes.calm_s)
        dropped, went = callers.beside(service.apply_retention)
        callers.alone(sizes.calm_s)
    if (begun.partitions_begun, dropped.partitions) != (1, MONTHS):
        raise AssertionError(f"{begun.partitions_begun} begun, {dropped.partitions} dropped")
    usual = callers.took(before)
    return [
        Result(
            target=Target(id="locks", what=f"longest wait beyond the usual, {what}", bound=LONGEST_S, unit="s"),
            value=_beyond(callers.took(span), usual),
            note=f"in {_seconds(span):.2f} s; {_beside(callers.took(span), usual)}",
        )
        for what, span in (
            ("a month begins", began),
            (f"{dropped.partitions} months of {dropped.events:,} events go", went),
        )
    ]
