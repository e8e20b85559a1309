"""Transactions, retries and the clock, on both databases."""

from __future__ import annotations

import sqlite3
import threading
import time
import traceback
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import exc, func, insert, select, text

from bindings.domain.binding import Caller, EventKind
from bindings.errors import Busy, InvalidRequest, SchemaOutOfDate
from bindings.service import BindingService
from bindings.store import deadline_connection, engine, events, job_runs, schema_version
from bindings.store.account import register_scope
from bindings.store.column_types import Instant
from bindings.store.database import Database
from bindings.store.deadline_connection import DeadlineConnection
from bindings.store.engine import SQLITE_PRAGMAS, make_engine
from bindings.store.failures import ConstraintViolated, DatabaseWaitTimeout
from bindings.store.schema import account
from bindings.store.schema import events as events_table
from bindings.store.schema import holds as holds_table
from bindings.store.schema import passes as passes_table
from tests.faults.proxy import CommitProxy
from tests.service.harness import in_threads, wait_for
from tests.store.silent_server import silent_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.store.database import Transaction

CALLER = Caller(actor="test")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def event_count(database: Database) -> int:
    return database.read(
        lambda connection: connection.execute(select(func.count()).select_from(events_table)).scalar_one()
    )


def write_event(tx: Transaction) -> None:
    events.append_without_binding(tx, EventKind.REVEALED, CALLER, {})


def test_committed_write_is_visible_to_the_next_read(database: Database) -> None:
    database.write(write_event)
    assert event_count(database) == 1


def test_write_that_raises_is_rolled_back(database: Database) -> None:
    def work(tx: Transaction) -> None:
        write_event(tx)
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        database.write(work)
    assert event_count(database) == 0


def test_lost_connection_repeats_the_whole_work(database: Database) -> None:
    attempts: list[int] = []

    def work(tx: Transaction) -> int:
        attempts.append(tx.attempt)
        write_event(tx)
        if tx.attempt < 3:
            raise _connection_lost(database)
        return tx.attempt

    assert database.write(work) == 3
    assert attempts == [1, 2, 3]
    assert event_count(database) == 1


def test_connection_lost_for_the_whole_budget_raises_busy(database: Database) -> None:
    def work(_: Transaction) -> None:
        raise _connection_lost(database)

    with pytest.raises(Busy) as busy:
        database.write(work, budget_s=0.2)
    assert busy.value.retry_after_s


@pytest.mark.parametrize("call", ["read", "write"])
def test_server_that_answers_nothing_after_the_login_is_given_up(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Regression: the first query of a new connection waited without end, as with a pooler that is paused."""
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 2)
    raised: list[BaseException] = []
    with silent_server() as url:
        database = Database(url, pool_size=1, timeout_s=0.5)
        calls = {"read": database.clock, "write": lambda: database.write(write_event)}
        thread = threading.Thread(target=lambda: raised.extend(in_threads(calls[call])), daemon=True)
        thread.start()
        thread.join(60)
        database.close()
    assert [type(error) for error in raised] == [Busy]
    assert "did not answer in time" in str(raised[0])


@pytest.mark.parametrize("path", ["driver", "receive"])
def test_notices_without_an_end_do_not_hold_a_call_past_its_deadline(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(deadline_connection, "_LATE_S", 0.1)
    endless = "DO $$ BEGIN LOOP RAISE NOTICE 'again'; END LOOP; END $$"
    url = postgres_url.replace("+psycopg", "")
    with DeadlineConnection.connect(url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '60s'")
        connection.only_reads = True
        connection.give_up_at = time.monotonic() + 0.2

        def exchange() -> None:
            connection.pgconn.send_query(endless.encode())
            connection.pgconn.flush()
            while connection.pgconn.is_busy():
                connection.receive()

        with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
            connection.execute(endless) if path == "driver" else connection.run(exchange)
        assert connection.closed


def test_pool_keeps_as_many_unused_connections_open_as_the_setting_says(sqlite_url: str) -> None:
    with BindingService.open(database_url=sqlite_url, pool_size=4, pool_idle=1) as service:
        connections = service.runtime.database._reads
        with ExitStack() as uses:
            for _ in range(4):
                uses.enter_context(connections.connect(0.0))
            with pytest.raises(DatabaseWaitTimeout, match="BINDINGS_POOL_SIZE is 4"):
                connections.connect(0.0).__enter__()
        assert (connections.count, connections.idle) == (0, 1)


def drivers_of(database: Database, count: int = 1) -> list[object]:
    """Return the driver's connections of `count` uses at the same time."""
    with ExitStack() as uses:
        lent = [database._writes.connect(0.0) for _ in range(count)]
        for use in lent:
            uses.enter_context(use)
        return [use.raw for use in lent]


def test_connection_stays_open_for_the_next_use(database: Database) -> None:
    assert drivers_of(database) == drivers_of(database)


def test_transaction_that_a_use_leaves_open_is_rolled_back(database: Database) -> None:
    with database._writes.connect(0.0) as connection:
        connection.execute(insert(account).values(id=1, scope="never committed"))
    assert database._writes.idle == 1
    assert database.read(lambda connection: connection.execute(select(account.c.scope)).all()) == []


def test_connection_with_other_options_is_not_used_again(database: Database) -> None:
    before = drivers_of(database)
    with database._writes.connect(0.0) as connection:
        connection.execution_options(yield_per=1)
    assert database._writes.idle == 0
    assert drivers_of(database) != before


def test_connection_that_is_old_is_not_used_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drivers_of(database)
    monkeypatch.setattr(engine, "RECYCLE_S", 0)
    assert drivers_of(database) != before


@pytest.mark.postgres
def test_after_a_lost_connection_none_that_was_opened_before_is_used_again(postgres_url: str) -> None:
    """A server that was restarted has closed them all, and each would fail a call."""
    database = Database(postgres_url)
    before = drivers_of(database, 3)
    in_use = database._writes.connect(0.0)
    with in_use:
        with database._writes.connect(0.0) as connection, pytest.raises(exc.OperationalError):
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert database._writes.idle == 0
    assert database._writes.idle == 0  # it was opened before
    assert not set(drivers_of(database, 3)) & set(before)
    database.close()


def test_call_that_waits_longer_than_the_setting_allows_is_busy(sqlite_url: str) -> None:
    """SQLite's file is locked by another process: here by a connection that is not the service's."""
    with (
        BindingService.open(database_url=sqlite_url, database_timeout_s=0.5) as service,
        closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other,
    ):
        assert service.runtime.database.timeout_s == 0.5
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="another process holds the lock of the SQLite file"):
            service.reveal([], reason="a test", what="export")
        other.execute("ROLLBACK")
        service.reveal([], reason="a test", what="export")


def test_permanent_error_is_not_retried(database: Database) -> None:
    attempts: list[int] = []

    def work(tx: Transaction) -> None:
        attempts.append(tx.attempt)
        tx.connection.execute(text("INSERT INTO account (id, scope) VALUES (2, 'x')"))

    with pytest.raises(ConstraintViolated):
        database.write(work)
    assert attempts == [1]


def _connection_lost(database: Database) -> exc.OperationalError:
    kind = database._engine.dialect.dbapi.OperationalError  # type: ignore[union-attr]
    return exc.OperationalError("statement", {}, kind("connection lost"))


def test_database_error_text_contains_no_bound_value(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Nor PostgreSQL's DETAIL, which shows the failing row: a traceback prints the whole chain of errors."""
    values = {
        "id": "0190b5a0-0000-7000-8000-000000000001",
        "scope": "s",
        "phone": _phone(),
        "why": "bad",
        "app_id": "a",
        "held_until": _noon(),
        "strikes": 0,
        "created_at": _noon(),
    }
    with pytest.raises(ConstraintViolated) as violation:
        database.write(lambda tx: tx.connection.execute(insert(holds_table).values(**values)))
    output = "".join(traceback.format_exception(violation.value)) + caplog.text
    assert "9188067701" not in output
    assert "why" in violation.value.constraint


def _phone() -> Any:
    from bindings.domain.phone import Phone

    return Phone("9188067701")


def _noon() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_naive_instant_is_rejected_when_it_is_bound(database: Database) -> None:
    naive = datetime(2026, 3, 1, 12)  # noqa: DTZ001 -- naive on purpose
    with pytest.raises(exc.StatementError, match="time zone"):
        database.read(lambda connection: connection.execute(select(func.coalesce(_bound(naive)))).scalar())


def _bound(value: datetime) -> Any:
    from sqlalchemy import literal

    return literal(value, Instant)


@pytest.mark.parametrize(
    "instant",
    [
        datetime(2026, 3, 1, 12, tzinfo=UTC),
        datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9990, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_stored_instant_is_returned_unchanged_and_sorts_by_time(database: Database, instant: datetime) -> None:
    later = _noon() + timedelta(days=1)

    def work(tx: Transaction) -> tuple[datetime | None, int]:
        tx.connection.execute(
            text("DELETE FROM passes"),
        )
        insert_pass(tx, instant)
        last_finished = job_runs.last_finished(tx.connection, "t")
        before = tx.connection.execute(select(func.count()).where(passes_table.c.finished_at < later)).scalar_one()
        return last_finished, before

    last_finished, before = database.write(work)
    assert last_finished == instant
    assert before == (instant < later)


def insert_pass(tx: Transaction, finished_at: datetime) -> None:
    tx.connection.execute(
        passes_table.insert().values(task="t", slot=1, started_at=_noon(), finished_at=finished_at, replica="r")
    )


@pytest.mark.parametrize(("setting", "value"), [("jit", "off"), ("client_min_messages", "warning")])
def test_settings_of_a_direct_connection_are_made_whatever_the_role_has(
    postgres_url: str, setting: str, value: str
) -> None:
    """Statements are not compiled, and the server warns of a commit that is on no standby."""
    database = Database(f"{postgres_url}?options=-cclient_min_messages%3Derror")
    show = text(f"SHOW {setting}")
    assert database.read(lambda connection: connection.execute(show).scalar()) == value
    assert database.write(lambda tx: tx.connection.execute(show).scalar()) == value
    database.close()


def test_connection_whose_setup_fails_is_closed(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[DeadlineConnection] = []
    set_up = engine._set_up

    def fail(connection: DeadlineConnection) -> None:
        made.append(connection)
        set_up(connection)
        raise psycopg.errors.QueryCanceled

    monkeypatch.setattr(engine, "_set_up", fail)
    database = Database(postgres_url, timeout_s=0.5)
    with pytest.raises(Busy):
        database.clock()
    assert made
    assert all(connection.closed for connection in made)
    database.close()


def test_postgresql_clock_is_aware_and_advances_within_a_transaction(postgres_url: str) -> None:
    database = Database(postgres_url)
    first, second = database.write(lambda tx: (tx.instant(), tx.instant()))
    assert first.tzinfo is UTC
    assert first < second, "clock_timestamp(), not now()"
    database.close()


def test_sqlite_clock_is_constant_within_a_transaction(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    first, second = database.write(lambda tx: (tx.instant(), tx.instant()))
    assert first == second
    database.close()


def test_sqlite_clock_is_read_after_the_write_lock_is_acquired(sqlite_url: str) -> None:
    database, other = Database(sqlite_url), Database(sqlite_url)
    holding, go_on = threading.Event(), threading.Event()
    instants: list[datetime] = []

    def hold(tx: Transaction) -> None:
        holding.set()
        assert go_on.wait(300)

    holder = threading.Thread(target=lambda: database.write(hold), daemon=True)
    holder.start()
    assert holding.wait(300)
    waiter = threading.Thread(target=lambda: instants.append(other.write(lambda tx: tx.instant())), daemon=True)
    waiter.start()
    waiter.join(0.1)
    released = datetime.now(UTC)
    go_on.set()
    holder.join(300)
    waiter.join(300)
    assert instants[0] >= released
    database.close()
    other.close()


def test_every_sqlite_connection_sets_the_pragmas(sqlite_url: str) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "cache_size": -8_192,
    }
    assert {pragma.partition(" =")[0] for pragma in SQLITE_PRAGMAS} == set(expected)
    for autocommit, busy_timeout_ms in ((False, 20_000), (True, 1_000)):
        engine = make_engine(sqlite_url, autocommit=autocommit)
        both = expected | {"busy_timeout": busy_timeout_ms}
        with engine.connect() as connection:
            pragmas = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in both}
        assert pragmas == both
        engine.dispose()


def test_sqlite_transaction_takes_the_write_lock_when_it_begins(sqlite_url: str) -> None:
    """BEGIN IMMEDIATE: in the default mode both transactions could read, and one of two updates would be lost."""
    first, second = make_engine(sqlite_url), make_engine(sqlite_url)
    with first.begin():
        raw = second.raw_connection()
        raw.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(Exception, match="locked"):
            raw.execute("BEGIN IMMEDIATE")
        raw.close()
    first.dispose()
    second.dispose()


def test_autocommit_write_is_durable(database_url: str) -> None:
    engine = make_engine(database_url, autocommit=True)
    with engine.connect() as connection:
        connection.execute(account.insert().values(id=1, scope="shop"))
    later = make_engine(database_url)
    with later.connect() as connection:
        assert connection.execute(select(account.c.scope)).scalar() == "shop"
    engine.dispose()
    later.dispose()


def test_write_on_a_connection_switched_to_autocommit_is_durable(database_url: str) -> None:
    engine = make_engine(database_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(account.insert().values(id=1, scope="shop"))
    with engine.connect() as connection:
        assert connection.execute(select(account.c.scope)).scalar() == "shop"
    engine.dispose()


@pytest.mark.parametrize("first", ["read", "write", "stream"])
def test_deferred_check_runs_once_before_the_first_use(database: Database, first: str) -> None:
    order: list[str] = []

    def check() -> None:
        database.write(write_event)  # the check itself reads and writes
        order.append("check")

    def stream() -> None:
        order.extend(database.stream(lambda _: iter(["stream"])))

    uses: dict[str, Callable[[], None]] = {
        "read": lambda: database.read(lambda _: order.append("read")),
        "write": lambda: database.write(lambda _: order.append("write")),
        "stream": stream,
    }
    database.defer(check)
    uses[first]()
    uses[first]()
    assert order == ["check", first, first]
    assert event_count(database) == 1


def test_deferred_check_that_raises_runs_again_and_nothing_is_written(database: Database) -> None:
    outcomes = iter([SchemaOutOfDate(), None])

    def check() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    database.defer(check)
    with pytest.raises(SchemaOutOfDate):
        database.write(write_event)
    database.write(write_event)
    assert event_count(database) == 1


def test_threads_wait_for_a_deferred_check_that_is_running(database: Database) -> None:
    started, passed = threading.Event(), threading.Event()

    def check() -> None:
        started.set()
        assert passed.wait(300)

    database.defer(check)
    reads: list[bool] = []
    threads = [
        threading.Thread(target=lambda: reads.append(database.read(lambda _: passed.is_set())), daemon=True)
        for _ in range(2)
    ]
    threads[0].start()
    assert started.wait(300)
    threads[1].start()
    threads[1].join(0.2)
    assert reads == []
    passed.set()
    for thread in threads:
        thread.join(300)
    assert reads == [True, True]


class CountedLock:
    """A reentrant lock that knows how many threads have come to it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.comers: list[int] = []

    def __enter__(self) -> None:
        self.comers.append(threading.get_ident())
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_threads_that_wait_for_a_deferred_check_get_its_error(database: Database) -> None:
    """Regression: each of them ran it again after the others, so that the last one waited for all of them."""
    lock, end = CountedLock(), threading.Event()
    attempts: list[int] = []

    def check() -> None:
        attempts.append(1)
        assert end.wait(60)
        raise Busy("away")

    database._deferred_lock = lock  # type: ignore[assignment]
    database.defer(check)
    raised: list[BaseException] = []
    threads = threading.Thread(target=lambda: raised.extend(in_threads(*[database.clock] * 5)))
    threads.start()
    wait_for(lambda: len(lock.comers) == 5)
    end.set()
    threads.join(60)
    assert [type(error) for error in raised] == [Busy] * 5
    assert len(attempts) == 1
    with pytest.raises(Busy):
        database.clock()
    assert len(attempts) == 2, "a later call runs it again"


def test_first_scope_is_recorded_and_a_different_scope_is_rejected(database: Database) -> None:
    register_scope(database, "shop")
    register_scope(database, "shop")
    with pytest.raises(InvalidRequest, match="BINDINGS_SCOPE"):
        register_scope(database, "other")


def test_replicas_that_start_together_agree_on_one_scope(database_url: str) -> None:
    replicas = [Database(database_url) for _ in range(8)]
    together = threading.Barrier(8)
    refused: list[int] = []

    def start(number: int) -> None:
        together.wait(300)
        try:
            register_scope(replicas[number], f"scope-{number % 2}")
        except InvalidRequest:
            refused.append(number)

    threads = [threading.Thread(target=start, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(refused) == 4
    assert len({number % 2 for number in refused}) == 1
    for replica in replicas:
        replica.close()


def test_database_without_schema_is_rejected_with_the_upgrade_command(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert schema_version.read(database).revision is None
    with pytest.raises(SchemaOutOfDate, match="bindings db upgrade"):
        schema_version.read(database).require()
    database.close()


def test_slot_of_a_job_is_claimed_by_exactly_one_replica(database_url: str) -> None:
    replicas = [Database(database_url, read_clock=_noon) for _ in range(6)]
    together = threading.Barrier(6)
    claimed: list[int | None] = []

    def run(replica: Database) -> None:
        together.wait(300)
        claimed.append(replica.write(lambda tx: job_runs.claim_slot(tx, "reconcile", 300, "r")))

    threads = [threading.Thread(target=run, args=(replica,), daemon=True) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len([slot for slot in claimed if slot is not None]) == 1
    replicas[0].write(lambda tx: job_runs.finish(tx, "reconcile", next(filter(None, claimed)), {"scans": 1}))
    assert replicas[0].read(job_runs.last_finished, "reconcile") == _noon()
    for replica in replicas:
        replica.close()


def test_old_slots_of_a_job_are_deleted_beyond_a_hundred(database_url: str) -> None:
    at = [_noon()]
    database = Database(database_url, read_clock=lambda: at[0])
    for _ in range(105):
        at[0] += timedelta(seconds=300)
        assert database.write(lambda tx: job_runs.claim_slot(tx, "reconcile", 300, "r")) is not None
    count = select(func.count()).select_from(passes_table)
    assert database.read(lambda connection: connection.execute(count).scalar_one()) == job_runs.KEPT_FOR + 1
    database.close()


@pytest.mark.parametrize(
    ("location", "user", "password", "hosts"),
    [
        ("u:p@ss@h/x", "u", "p@ss", "h"),
        ("u:p%40ss@h:5433/x", "u", "p@ss", "h"),
        ("u:p/ss@h/x", "u", "p/ss", "h"),
        ("u:p@ss@a,b:5433/x", "u", "p@ss", ("a", "b:5433")),
        ("u:p?@ss@h/x", "u", "p?@ss", "h"),
    ],
)
def test_password_may_have_any_character_that_ends_no_part_of_the_url(
    location: str, user: str, password: str, hosts: str | tuple[str, ...]
) -> None:
    url = engine.driver_url(f"postgresql://{location}")
    assert (url.username, url.password, url.host or url.query["host"]) == (user, password, hosts)


@pytest.mark.postgres
@pytest.mark.parametrize(("pools", "limit"), [(False, "10s"), (True, "0")], ids=["direct", "behind a pooler"])
def test_no_setting_of_a_session_is_left_to_other_clients_of_a_pooler(
    postgres_url: str, *, pools: bool, limit: str
) -> None:
    limits: list[str] = []
    with CommitProxy(f"{postgres_url}?sslmode=disable", pools=pools) as proxy:
        database = Database(proxy.url)
        database.run_outside_transaction(
            lambda connection: limits.append(connection.execute(text("SHOW lock_timeout")).scalar_one()),
            lock_wait="10s",
        )
        database.close()
    assert limits == [limit]
