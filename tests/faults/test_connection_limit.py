"""The limit of connections holds at the server, also while statements and commits wait there without an end."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from bindings.domain.binding import Caller, EventKind
from bindings.errors import Busy
from bindings.store import database as database_module
from bindings.store import events, migrations
from bindings.store.database import TIMEOUT_S, Database
from tests.faults.cluster import Cluster, find_binaries
from tests.service.harness import in_threads, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.store.database import Transaction

pytestmark = [pytest.mark.processes, pytest.mark.postgres]

CALLERS, SIZE = 32, 6
OURS = "FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
CONNECTIONS = f"SELECT count(*) {OURS} AND pid <> pg_backend_pid()"
WAITING_COMMITS = f"SELECT count(*) {OURS} AND wait_event = 'SyncRep'"
WAITING_FOR_LOCKS = f"SELECT count(*) {OURS} AND wait_event_type = 'Lock'"
EVENTS = "SELECT count(*) FROM events"
CANCELLED_S = 60.0  # a cancelled statement ends at once; less than the limit of a run with a seeded bug


def write_event(tx: Transaction) -> None:
    events.append_without_binding(tx, EventKind.REVEALED, Caller(actor="test"), {})


def count(observer: psycopg.Connection, query: str) -> int:
    row = observer.execute(query.encode()).fetchone()
    return int((row or (0,))[0])


def wait_until_no_statement_waits(observer: psycopg.Connection) -> None:
    wait_for(lambda: count(observer, WAITING_FOR_LOCKS) == 0, seconds=CANCELLED_S)


@contextmanager
def opened(url: str, *, size: int = SIZE, timeout_s: float = TIMEOUT_S) -> Iterator[Database]:
    database = Database(url, pool_size=size, timeout_s=timeout_s)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def observing(url: str) -> Iterator[psycopg.Connection]:
    """Provide a connection of this test, which no standby delays."""
    with psycopg.connect(url, autocommit=True, options="-c synchronous_commit=local") as observer:
        yield observer


@contextmanager
def highest_count(url: str) -> Iterator[list[int]]:
    """Count the connections of the product to this database all the time; the list has the highest count."""
    highest, stop = [0], threading.Event()

    def watch() -> None:
        with observing(url) as observer:
            while not stop.wait(0.005):
                others = count(observer, CONNECTIONS) - 1  # that of the test
                highest[0] = max(highest[0], others)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield highest
    finally:
        stop.set()
        watcher.join(30)


def write_by_all(database: Database) -> list[BaseException]:
    """Let all callers write, each attempt shorter than its budget; return what they raised."""
    call: Callable[[], None] = lambda: database.write(write_event, budget_s=1.5, attempt_timeout_s=0.3)  # noqa: E731
    return in_threads(*[call] * CALLERS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Build a primary and two standbys, of which one must have each commit."""
    binaries = find_binaries()
    if binaries is None:
        message = "no PostgreSQL server programs: waiting commits were NOT tested"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with Cluster.build(binaries) as cluster:
        migrations.upgrade(cluster.url)
        yield cluster


@pytest.mark.parametrize("several_hosts", [False, True], ids=["one host", "several hosts"])
def test_waiting_commits_are_left_alone_and_count(cluster: Cluster, *, several_hosts: bool) -> None:
    """A cancelled commit would be visible at once, and on no standby."""
    url = cluster.primary.url
    with opened(cluster.url if several_hosts else url) as database, observing(url) as observer:
        before = count(observer, EVENTS)
        database.write(write_event)
        cluster.synchronous("absent")
        try:
            with highest_count(url) as highest:
                refusals = write_by_all(database)
                assert [type(refusal) for refusal in refusals] == [Busy] * CALLERS
                assert count(observer, WAITING_COMMITS) == database.connections_in_use() == SIZE
                assert count(observer, EVENTS) == before + 1
        finally:
            cluster.synchronous("")
        assert SIZE <= highest[0] <= SIZE + several_hosts  # the one that looks for another primary
        wait_for(lambda: count(observer, WAITING_COMMITS) == 0)
        wait_for(lambda: database.connections_in_use() == 0)
        assert count(observer, EVENTS) == before + 1 + SIZE
        assert write_by_all(database) == []
        assert count(observer, EVENTS) == before + 1 + SIZE + CALLERS


def test_statement_that_waits_for_a_lock_is_cancelled_at_the_server(postgres_url: str) -> None:
    with (
        opened(postgres_url, timeout_s=0.5) as database,
        psycopg.connect(postgres_url) as locker,
        observing(postgres_url) as observer,
    ):
        locker.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with highest_count(postgres_url) as highest:
            refusals = write_by_all(database)
        assert [type(refusal) for refusal in refusals] == [Busy] * CALLERS
        assert highest[0] <= SIZE + 1  # and the locker
        wait_until_no_statement_waits(observer)  # while the lock is still held
        locker.rollback()
        assert write_by_all(database) == []
        assert count(observer, EVENTS) == CALLERS


def test_read_that_is_given_up_is_cancelled_at_the_server(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few slow reports would use up the connections of the lookups for as long as they run."""
    monkeypatch.setattr(database_module, "LONGEST_TRY_S", 0.3)
    with (
        opened(postgres_url) as database,
        psycopg.connect(postgres_url) as locker,
        observing(postgres_url) as observer,
    ):
        locker.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Busy):
            database.read(lambda connection: connection.execute(text(EVENTS)).scalar_one())
        wait_until_no_statement_waits(observer)  # while the lock is still held
        wait_for(lambda: database.connections_in_use() == 0)
        locker.rollback()


def test_interrupted_commit_is_not_cancelled(cluster: Cluster) -> None:
    """An exception of a signal handler ends the wait here; the server goes on waiting for its standby."""
    url = cluster.primary.url
    with opened(url, size=1) as database, observing(url) as observer:
        before = count(observer, EVENTS)
        cluster.synchronous("absent")
        try:
            interrupted = pytest.raises(KeyboardInterrupt)
            with interrupted, interrupt_when(lambda: count(observer, WAITING_COMMITS) == 1):
                database.write(write_event, budget_s=30)
            assert count(observer, WAITING_COMMITS) == database.connections_in_use() == 1
            assert count(observer, EVENTS) == before
        finally:
            cluster.synchronous("")
        wait_for(lambda: count(observer, EVENTS) == before + 1)


@contextmanager
def interrupt_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send this process a SIGINT, as Ctrl-C does, as soon as the condition holds."""
    import signal

    def watch() -> None:
        wait_for(condition)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    watcher.start()
    try:
        yield
    finally:
        watcher.join(30)
        signal.signal(signal.SIGINT, before)
