"""Transactions, retries and the clock, for SQLite and PostgreSQL alike.

Connections are made in `engine`. Nothing here knows a table. Every write goes through `Database.write`, which runs
its work as one transaction and may run it again: the work must be safe to repeat. No connection is held while the
provider is called.

The deciding clock is the database's (docs/maintainers/architecture.md, "The two clocks"). SQLite has no clock of
its own: there it is this host's, read once per transaction, after the write lock is held.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    exc,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

from bindings.clock import SYSTEM_CLOCK
from bindings.errors import Busy
from bindings.fork_safety import ProcessMark, keep_alive
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.engine import POOL_SIZE, codec_of, is_pooled, text_encoding
from bindings.store.failures import DatabaseWaitTimeout, explain
from bindings.store.process_connections import ProcessConnections, refuse
from bindings.store.retry import with_retry
from bindings.store.sqlite_connection import REPLACED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Select, Table

    from bindings.clock import HostClock
    from bindings.store.phone_keys import PhoneKeys

    ReadClock: TypeAlias = Callable[[], datetime]

Params = ParamSpec("Params")
Result = TypeVar("Result")

LONGEST_TRY_S = 35.0  # past the longest statement timeout that a job sets
TIMEOUT_S = 4.0  # a bind must not leave later than 5 s after its intent

# The instant of the running transaction, if the deciding clock is not the server's own.
_INSTANT: ContextVar[datetime] = ContextVar("instant")
_FIXED_NOW = bindparam("clock", callable_=_INSTANT.get, type_=Instant)
_SERVER_NOW: ColumnElement[datetime] = func.clock_timestamp(type_=Instant)  # now() is the transaction's start
_SERVER_NOW_ONCE: ColumnElement[datetime] = select(_SERVER_NOW).scalar_subquery()


@dataclass(frozen=True, slots=True)
class SqlDialect:
    """The SQL of a database, and whether its server's clock decides. Statements are built once per dialect."""

    postgres: bool
    server_clock: bool

    @property
    def now(self) -> ColumnElement[datetime]:
        """Return the deciding clock, as SQL; PostgreSQL reads it again for each row."""
        return _SERVER_NOW if self.server_clock else _FIXED_NOW

    @property
    def now_once(self) -> ColumnElement[datetime]:
        """Return the deciding clock, read once for the whole statement: only this form can use an index."""
        return _SERVER_NOW_ONCE if self.server_clock else _FIXED_NOW

    def clamp(
        self, value: ColumnElement[datetime], *, low: ColumnElement[datetime], high: ColumnElement[datetime]
    ) -> ColumnElement[datetime]:
        """Return `value`, but at least `low` and at most `high`."""
        if self.postgres:
            return func.least(func.greatest(value, low), high, type_=Instant)
        return func.min(func.max(value, low), high, type_=Instant)

    @property
    def insert(self) -> Callable[[Table], Any]:
        """Return the dialect's INSERT, with ON CONFLICT."""
        return postgresql.insert if self.postgres else sqlite.insert


class Transaction:
    """One running write transaction.

    `attempt` counts from 1; if it is higher, an earlier attempt may have committed. `started_at` is a reading of
    the monotonic clock from before the deciding clock is read (on SQLite, from after the write lock was acquired).
    At `give_up_at` (`time.monotonic`) the wait for the server's response ends (PostgreSQL).
    """

    def __init__(
        self,
        connection: Connection,
        dialect: SqlDialect,
        *,
        attempt: int,
        started_at: float,
        give_up_at: float = math.inf,
    ) -> None:
        self.started_at = started_at
        self.give_up_at = give_up_at
        self.connection = connection
        self.dialect = dialect
        self.attempt = attempt

    def instant(self) -> datetime:
        """Return the reading of the deciding clock. On PostgreSQL this is a round trip."""
        return self.connection.execute(_READ_CLOCK).scalar_one() if self.dialect.server_clock else _INSTANT.get()

    def lock(
        self, keys: list[int], *, timeout_s: float, reading: tuple[ColumnElement[Any], ...], **values: Any
    ) -> tuple[datetime, Sequence[Any]]:
        """Wait for the advisory locks `keys` (sorted here against deadlocks); then return the clock's reading.

        Also returns the values of `reading` (scalar subqueries, with their parameters `values`). One round trip on
        PostgreSQL; the end of the transaction releases the locks. A check that the locks protect must be a
        separate statement: a statement's snapshot, and so what `reading` reads, is older than the locks that it
        waits for. On SQLite BEGIN IMMEDIATE is the lock. Raises a lock timeout, which is retried, after
        `timeout_s` for one lock.
        """
        if not self.dialect.postgres:
            return self.instant(), self.connection.execute(_select_all(reading), values).one() if reading else ()
        values |= {"wait": f"{timeout_s}s"} | {f"key_{index}": key for index, key in enumerate(sorted(keys))}
        ((*locked, now),) = _locks(len(keys), reading).fetch_all(self.connection, values)
        return (now if self.dialect.server_clock else self.instant()), locked[1 + len(keys) :]

    def limit_batch(self, timeout_s: float) -> None:
        """Let the statements of this transaction read in the order of an index, each for `timeout_s` (PostgreSQL).

        For the first rows of a long index. The planner would rather read and sort all rows of a range, for each
        batch again: it expects few, because it estimates every range of time as a two-hundredth of the table.
        """
        if self.dialect.postgres:
            self.connection.execute(_LIMIT_BATCH, {"timeout": f"{timeout_s}s"})


def migration_transaction(connection: Connection) -> Transaction:
    """Return the transaction of a migration that runs on a connection; on SQLite its instant is this host's."""
    postgres = connection.dialect.name == "postgresql"
    if not postgres:
        _INSTANT.set(datetime.now(UTC))
    dialect = SqlDialect(postgres=postgres, server_clock=postgres)
    return Transaction(connection, dialect, attempt=1, started_at=time.monotonic())


_READ_CLOCK = select(_SERVER_NOW)
_WRITE_SOMETHING = select(cast(func.pg_logical_emit_message(literal_column("true"), "bindings", "again"), Text))
_LIMIT_BATCH = select(
    func.set_config("statement_timeout", bindparam("timeout"), literal_column("true")),
    func.set_config("enable_sort", "off", literal_column("true")),
)


@cache
def _select_all(reading: tuple[ColumnElement[Any], ...]) -> Select[*tuple[Any, ...]]:
    return select(*reading)


@cache
def _locks(count: int, reading: tuple[ColumnElement[Any], ...]) -> CompiledStatement:
    """Build a SELECT that waits for `count` locks, at most :wait each, then reads the clock (columns in order)."""
    wait = func.set_config("lock_timeout", bindparam("wait"), literal_column("true"))
    keys = [bindparam(f"key_{index}", type_=BigInteger) for index in range(count)]
    locks = (func.pg_advisory_xact_lock(key) for key in keys)
    return CompiledStatement(select(wait, *locks, *reading, _SERVER_NOW))


class Database(ProcessConnections):
    """The transactions and reads of one database, and its clock.

    Thread-safe, also in a forked child. A call waits for `timeout_s` in total, for a free connection, a lock, or a
    database that is away, unless it says otherwise. Phones are read and written with `phone_keys`. In tests
    `read_clock` replaces the deciding clock, and `clock` the clocks of this host.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        pool_idle: int | None = None,
        timeout_s: float = TIMEOUT_S,
        read_clock: ReadClock | None = None,
        clock: HostClock = SYSTEM_CLOCK,
        phone_keys: PhoneKeys | None = None,
    ) -> None:
        super().__init__(url, pool_size, pool_idle, phone_keys)
        self.timeout_s = timeout_s
        self.host_clock = clock
        self._deferred_check: Callable[[], None] | None = None
        self._on_use: Callable[[], None] = _do_nothing
        self._encoding: str | None = None
        self._read_clock = read_clock if read_clock is not None or self.postgres else self._host_time
        self.dialect = SqlDialect(postgres=self.postgres, server_clock=self._read_clock is None)
        # A scalar subquery is evaluated once per statement, so that an index lookup can use it.
        self.now: ColumnElement[datetime] = (
            _SERVER_NOW_ONCE
            if self._read_clock is None
            else bindparam("clock", callable_=self._read_clock, type_=Instant)
        )
        self._clock = CompiledStatement(select(self.now.label("now")))

    @property
    def form_count(self) -> int:
        """Return in how many forms a phone may be stored here (`store.phones`)."""
        return 1 if self.phone_keys is None else self.phone_keys.form_count

    def _open(self) -> None:
        super()._open()
        self._deferred_lock = threading.RLock()  # reentrant: the check itself reads and writes
        self._checking_thread: int | None = None
        self._failed_check: tuple[float, Busy] | None = None  # when (monotonic clock), and why

    def defer(self, check: Callable[[], None]) -> None:
        """Run `check` once before the first read or write; if it raises, again before the next one."""
        self._deferred_check = check

    def call_on_use(self, callback: Callable[[], None]) -> None:
        """Call `callback` at each read and write from now on; it must return immediately and must not raise."""
        self._on_use = callback

    def run_deferred_check(self) -> None:
        """Run the deferred check now, unless it has passed. Other threads wait for it, and get its `Busy` too."""
        self.open_in_child()
        if self._replaced:
            self._deferred_check = self.when_replaced  # first: `_require_checked` reads both without a lock
            self._replaced = False
        if self._deferred_check is not None:
            self._check_once()

    def _check_once(self) -> None:
        began_at = time.monotonic()
        with self._deferred_lock:
            check = self._deferred_check
            if check is None or self._checking_thread is not None:
                return
            if self._failed_check is not None and self._failed_check[0] > began_at:
                raise self._failed_check[1]  # or each thread would wait for the checks of all before it
            self._checking_thread = threading.get_ident()
            try:
                check()
                self._deferred_check = None
            except Busy as busy:
                self._failed_check = time.monotonic(), busy
                raise
            finally:
                self._checking_thread = None

    def _require_checked(self) -> None:
        """Raise `Busy` in a write that began before the SQLite file was replaced and has the new one open."""
        if self._replaced or (self._deferred_check is not None and self._checking_thread != threading.get_ident()):
            refuse(REPLACED)

    def write(
        self,
        work: Callable[[Transaction], Result],
        *,
        budget_s: float | None = None,
        attempt_timeout_s: float | None = None,
        autocommit_first: Callable[[Transaction], Result | None] | None = None,
    ) -> Result:
        """Run `work` in one durable transaction, commit, and return its result.

        `autocommit_first` is for work that is nearly always one statement: on PostgreSQL the first attempt runs it
        in AUTOCOMMIT, committed in the same round trip. If it returns None it has changed nothing, and `work`
        runs.

        After a failure that may pass, as a lost connection, the whole work runs again, with jitter, within
        `budget_s` seconds (None: `timeout_s`); also after a COMMIT whose response was lost, and then the first
        attempt may have committed. Every wait for a connection or a lock ends with the budget. With
        `attempt_timeout_s` no attempt waits longer than that for the server's response, nor past the budget;
        without it an attempt may outlast the budget. Raises `Busy` with the cause when the budget is used up (an
        earlier attempt may still commit, when a standby is back) or if the failure will not pass,
        `ConstraintViolated` if the database rejected a value.
        """
        self._on_use()  # first: it may ask for another check
        self.run_deferred_check()
        budget_ends_at = time.monotonic() + (self.timeout_s if budget_s is None else budget_s)

        def attempt_write(attempt: int) -> Result:
            give_up_at = time.monotonic() + (attempt_timeout_s or LONGEST_TRY_S)
            if attempt_timeout_s is not None:
                give_up_at = min(give_up_at, budget_ends_at)
            if autocommit_first is not None and attempt == 1 and self.postgres:
                result = self._run_in_autocommit(autocommit_first, budget_ends_at, give_up_at)
                if result is not None:
                    return result
            with self._transaction(attempt, budget_ends_at, give_up_at) as transaction:
                return work(transaction)

        return with_retry(attempt_write, ends_at=budget_ends_at, url=self._engine.url)

    def read(
        self, query: Callable[Concatenate[Connection, Params], Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return `query(connection, *args, **kwargs)`, run in AUTOCOMMIT: each statement is one round trip.

        A failure that may pass repeats the whole query, for at most `timeout_s`. Safe to repeat; `Busy` with the
        cause if the database does not answer.
        """
        self._on_use()  # first: it may ask for another check
        self.run_deferred_check()
        budget_ends_at = time.monotonic() + self.timeout_s

        def attempt_read(_attempt: int) -> Result:
            lent = self._reads.connect(budget_ends_at)
            with lent as connection:
                if self.postgres:
                    lent.set_deadline(time.monotonic() + LONGEST_TRY_S, only_reads=True)
                return query(connection, *args, **kwargs)

        return with_retry(attempt_read, ends_at=budget_ends_at, url=self._engine.url)

    def run_outside_transaction(self, work: Callable[[Connection], object], *, lock_wait: str) -> None:
        """Run statements that PostgreSQL allows in no transaction; `Busy` if a lock is not free in `lock_wait`.

        Not retried: the statements that ran before the failure stay committed. Behind a pooler the wait ends after
        `LONGEST_TRY_S`: the limit of a session would hold for other clients, and perhaps not for this one.
        """
        self.run_deferred_check()
        now = time.monotonic()
        try:
            lent = self._reads.connect(now + self.timeout_s)
            with lent as connection:
                lent.set_deadline(now + LONGEST_TRY_S)
                if is_pooled(connection):
                    work(connection)
                    return
                connection.execute(select(func.set_config("lock_timeout", lock_wait, literal_column("false"))))
                try:
                    work(connection)
                finally:
                    connection.execute(text("RESET lock_timeout"))
        except (exc.DBAPIError, DatabaseWaitTimeout) as error:
            raise explain(error, self._engine.url).error() from error

    def stream(
        self,
        query: Callable[Concatenate[Connection, Params], Iterator[Result]],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Iterator[Result]:
        """Yield the rows of `query(connection, ...)`, read in batches in one read-only snapshot; for exports.

        Raises `ForkedProcessError` in a child of the process that began it.
        """
        self.run_deferred_check()
        process = ProcessMark()
        connections = self._writes if self.postgres else self._reads
        lent = connections.connect(time.monotonic() + self.timeout_s)
        try:
            with lent as connection:
                lent.set_deadline(math.inf)
                if self.postgres:
                    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
                rows = query(connection.execution_options(yield_per=1_000), *args, **kwargs)
                try:
                    for row in rows:
                        yield row
                        process.check("this export", "begin it again in this process")
                finally:
                    if not process.is_this_process:
                        keep_alive(rows)  # with its cursor, which is the parent's
                    elif isinstance(rows, Generator):
                        rows.close()  # while it has the connection, which may be reading ahead
        except (exc.DBAPIError, DatabaseWaitTimeout) as error:
            raise explain(error, self._engine.url).error() from error

    def check_file(self) -> None:
        """Raise `Busy` unless the SQLite file that is open here is the one at its path."""
        self.run_deferred_check()
        if not self.postgres:
            with self._reads.connect(time.monotonic() + self.timeout_s) as connection:
                self.require_file(connection)

    def clock(self) -> datetime:
        """Return the reading of the deciding clock. A round trip on PostgreSQL."""
        ((reading,),) = self.read(self._clock.fetch_all, {})
        instant: datetime = reading
        return instant

    @property
    def encoding(self) -> str:
        """Return the name of the encoding in which the database stores text. `Busy` if it cannot be reached."""
        if self._encoding is None:
            self._encoding = self.read(text_encoding)
        return self._encoding

    def storable(self, words: str) -> str:
        """Return the text with a `?` for each character that the encoding of the database lacks."""
        if words.isascii():
            return words
        codec = codec_of(self.encoding)
        return words.encode(codec, "replace").decode(codec)

    def _host_time(self) -> datetime:
        return datetime.fromtimestamp(self.host_clock.wall(), UTC)

    def _new_transaction(self, connection: Connection, *, attempt: int, give_up_at: float) -> Transaction:
        started_at = self.host_clock.monotonic()
        return Transaction(connection, self.dialect, attempt=attempt, started_at=started_at, give_up_at=give_up_at)

    def _run_in_autocommit(
        self, work: Callable[[Transaction], Result | None], wait_until: float, give_up_at: float
    ) -> Result | None:
        """Return `work(transaction)`, each statement of which commits by itself (PostgreSQL).

        SQLAlchemy's own isolation level AUTOCOMMIT took a seventh of the client's time of a bind.
        """
        # From the writer's pool: a wait for a commit must never keep a lookup from its connection.
        lent = self._writes.connect(wait_until)
        with lent as connection:
            lent.set_deadline(give_up_at)
            transaction = self._new_transaction(connection, attempt=1, give_up_at=give_up_at)
            if self._read_clock is not None:
                _INSTANT.set(self._read_clock())
            raw = lent.raw
            raw.set_autocommit(True)
            try:
                return work(transaction)
            finally:
                if not raw.closed:
                    raw.set_autocommit(False)

    @contextmanager
    def _transaction(self, attempt: int, wait_until: float, give_up_at: float) -> Iterator[Transaction]:
        lent = self._writes.connect(wait_until)
        with self._writer_lock(wait_until), lent as connection:
            if not self.postgres:
                self.require_file(connection)
                self._require_checked()
            lent.set_deadline(give_up_at if self.postgres else wait_until)
            with connection.begin():
                if attempt > 1 and self.postgres:
                    # An earlier attempt may have committed here and on no standby, if an operator cancelled its
                    # wait. A COMMIT that has written waits until a standby has everything before it; one that only
                    # read does not.
                    connection.execute(_WRITE_SOMETHING)
                transaction = self._new_transaction(connection, attempt=attempt, give_up_at=give_up_at)
                if self._read_clock is not None:
                    _INSTANT.set(self._read_clock())  # not before the write lock is held
                yield transaction

    @contextmanager
    def _writer_lock(self, wait_until: float) -> Iterator[None]:
        """Hold the write lock of this process (SQLite); raises `DatabaseWaitTimeout` at `wait_until`."""
        if self.postgres:
            yield
            return
        one_writer = self._one_writer
        if not one_writer.acquire(timeout=max(0.0, wait_until - time.monotonic())):
            raise DatabaseWaitTimeout("the write lock of this process was not free in time")
        try:
            yield
        finally:
            one_writer.release()


def _do_nothing() -> None:
    """Do nothing."""
