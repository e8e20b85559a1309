"""Transactions, retries and the clock, for SQLite and PostgreSQL alike.

Connections are made in `engine`. Nothing here knows a table. Every write goes through
`Database.write`, which runs its work as one transaction and may run it again: the work must be safe to repeat. No
connection is held while the provider is called.

The deciding clock is the database's (docs/maintainers/architecture.md, "The two clocks"). SQLite has no clock of
its own: there it is this host's, read once per transaction, after the write lock is held.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import stamina
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    event,
    exc,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool

from bindings.clock import SYSTEM_CLOCK
from bindings.errors import Busy
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.engine import make_engine, set_deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Select, Table
    from sqlalchemy.engine import ExceptionContext

    from bindings.clock import HostClock

    ReadClock: TypeAlias = Callable[[], datetime]

Params = ParamSpec("Params")
Result = TypeVar("Result")

LONGEST_TRY_S = 35.0  # past the longest statement timeout that a job sets
READ_ONLY = "25006"  # the SQLSTATE of a server that accepts no writes
RETRY_BUDGET_S = 4.0  # a bind must not leave later than 5 s after its intent

# The instant of the running transaction, if the deciding clock is not the server's own.
_INSTANT: ContextVar[datetime] = ContextVar("instant")
_FIXED_NOW = bindparam("clock", callable_=_INSTANT.get, type_=Instant)
_SERVER_NOW: ColumnElement[datetime] = func.clock_timestamp(type_=Instant)  # now() is the transaction's start


@dataclass(frozen=True, slots=True)
class SqlDialect:
    """The SQL of a database, and whether its server's clock decides. Statements are built once per dialect."""

    postgres: bool
    server_clock: bool

    @property
    def now(self) -> ColumnElement[datetime]:
        """The deciding clock, as SQL; PostgreSQL reads it again for each row."""
        return _SERVER_NOW if self.server_clock else _FIXED_NOW

    @property
    def now_once(self) -> ColumnElement[datetime]:
        """The deciding clock, read once for the whole statement: only this form can be looked up in an index."""
        return select(_SERVER_NOW).scalar_subquery() if self.server_clock else _FIXED_NOW

    def clamp(
        self, value: ColumnElement[datetime], *, low: ColumnElement[datetime], high: ColumnElement[datetime]
    ) -> ColumnElement[datetime]:
        """Return `value`, but at least `low` and at most `high`."""
        if self.postgres:
            return func.least(func.greatest(value, low), high, type_=Instant)
        return func.min(func.max(value, low), high, type_=Instant)

    @property
    def insert(self) -> Callable[[Table], Any]:
        """The dialect's INSERT, with ON CONFLICT."""
        return postgresql.insert if self.postgres else sqlite.insert


class ConstraintViolated(Exception):
    """A write violated a constraint and was rolled back; `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str) -> None:
        super().__init__(f"the write violated {constraint} and was rolled back")
        self.constraint = constraint


class Transaction:
    """One running write transaction.

    `attempt` counts from 1; if it is higher, an earlier attempt may have committed. `started_at` is a reading of
    the monotonic clock from before the deciding clock is read (on SQLite, from after the write lock was acquired).
    """

    def __init__(self, connection: Connection, dialect: SqlDialect, *, attempt: int, started_at: float) -> None:
        self.started_at = started_at
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
            return self.instant(), self.connection.execute(_select_all(reading), values).one()
        values |= {"wait": f"{timeout_s}s"} | {f"key_{index}": key for index, key in enumerate(sorted(keys))}
        ((*locked, now),) = _locks(len(keys), reading).fetch_all(self.connection, values)
        return (now if self.dialect.server_clock else self.instant()), locked[1 + len(keys) :]

    def set_statement_timeout(self, seconds: float) -> None:
        """Cancel each statement of this transaction that runs longer than `seconds` (PostgreSQL)."""
        if self.dialect.postgres:
            self.connection.execute(_SET_STATEMENT_TIMEOUT, {"timeout": f"{seconds}s"})


_READ_CLOCK = select(_SERVER_NOW)
_WRITE_SOMETHING = select(cast(func.pg_logical_emit_message(literal_column("true"), "bindings", "again"), Text))
_SET_STATEMENT_TIMEOUT = select(func.set_config("statement_timeout", bindparam("timeout"), literal_column("true")))


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


class Database:
    """The two engines of one database (transactions, and reads in AUTOCOMMIT) and its clock.

    Thread-safe; not usable across a fork. In tests `read_clock` replaces the deciding clock, and `clock` the
    clocks of this host.
    """

    def __init__(self, url: str, *, read_clock: ReadClock | None = None, clock: HostClock = SYSTEM_CLOCK) -> None:
        self._host_clock = clock
        self._deferred_check: Callable[[], None] | None = None
        self._deferred_lock = threading.RLock()  # reentrant: the check itself reads and writes
        self._checking = False
        self._engine = make_engine(url)
        self._reader = make_engine(url, autocommit=True)
        self.postgres = self._engine.dialect.name == "postgresql"
        # From the writer's pool: a wait for a commit must never keep a lookup from its connection.
        self._autocommit_writer = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self.postgres:
            event.listen(self._engine, "handle_error", self._drop_read_only_connections)
        self._read_clock = read_clock if read_clock is not None or self.postgres else self._host_time
        self.dialect = SqlDialect(postgres=self.postgres, server_clock=self._read_clock is None)
        # SQLite's own lock lets the threads of a process starve each other; this one is fair.
        self._one_writer = nullcontext() if self.postgres else threading.Lock()
        # A scalar subquery is evaluated once per statement, so that an index lookup can use it.
        self.now: ColumnElement[datetime] = (
            select(func.clock_timestamp(type_=Instant)).scalar_subquery()
            if self._read_clock is None
            else bindparam("clock", callable_=self._read_clock, type_=Instant)
        )

    def defer(self, check: Callable[[], None]) -> None:
        """Run `check` once before the first read or write; if it raises, again before the next one."""
        self._deferred_check = check

    def run_deferred_check(self) -> None:
        """Run the deferred check now, unless it has passed. Other threads wait until it has."""
        if self._deferred_check is not None:
            self._check_once()

    def _check_once(self) -> None:
        with self._deferred_lock:
            check = self._deferred_check
            if check is None or self._checking:
                return
            self._checking = True
            try:
                check()
                self._deferred_check = None
            finally:
                self._checking = False

    def write(
        self,
        work: Callable[[Transaction], Result],
        *,
        budget_s: float = RETRY_BUDGET_S,
        attempt_timeout_s: float | None = None,
        autocommit_first: Callable[[Transaction], Result | None] | None = None,
    ) -> Result:
        """Run `work` in one durable transaction, commit, and return its result.

        `autocommit_first` is for work that is nearly always one statement: on PostgreSQL the first attempt runs it
        in AUTOCOMMIT, committed in the same round trip. If it returns None it has changed nothing, and `work`
        runs.

        After a serialization failure, a deadlock or a lost connection the whole work runs again, with jitter,
        within `budget_s` seconds; also after a COMMIT whose response was lost, and then the first attempt may have
        committed. With `attempt_timeout_s` no attempt waits longer than that for the server, nor past the budget;
        without it an attempt may outlast the budget. Raises `Busy` when the budget is used up (an earlier attempt
        may still commit, when a standby is back), `ConstraintViolated` if the database rejected a value.
        """
        self.run_deferred_check()
        budget_ends_at = time.monotonic() + budget_s

        def attempt_write(attempt: int) -> Result:
            give_up_at = time.monotonic() + (attempt_timeout_s or LONGEST_TRY_S)
            if attempt_timeout_s is not None:
                give_up_at = min(give_up_at, budget_ends_at)
            if autocommit_first is not None and attempt == 1 and self.postgres:
                with self._autocommit_transaction(give_up_at) as transaction:
                    result = autocommit_first(transaction)
                if result is not None:
                    return result
            with self._transaction(attempt, give_up_at) as transaction:
                return work(transaction)

        return _with_retry(attempt_write, budget_s=budget_s)

    def read(
        self, query: Callable[Concatenate[Connection, Params], Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return `query(connection, *args, **kwargs)`, run in AUTOCOMMIT: each statement is one round trip.

        A lost connection repeats the whole query. Safe to repeat; `Busy` if the database does not answer.
        """
        self.run_deferred_check()

        def attempt_read(_attempt: int) -> Result:
            with self._reader.connect() as connection:
                set_deadline(connection, time.monotonic() + LONGEST_TRY_S)
                return query(connection, *args, **kwargs)

        return _with_retry(attempt_read, budget_s=RETRY_BUDGET_S, attempts=3)

    def run_outside_transaction(self, work: Callable[[Connection], object], *, lock_wait: str) -> None:
        """Run statements that PostgreSQL allows in no transaction; `Busy` if a lock is not free in `lock_wait`.

        Not retried: the statements that ran before the failure stay committed.
        """
        self.run_deferred_check()
        try:
            with self._reader.connect() as connection:
                set_deadline(connection, time.monotonic() + LONGEST_TRY_S)
                connection.execute(select(func.set_config("lock_timeout", lock_wait, literal_column("false"))))
                try:
                    work(connection)
                finally:
                    connection.execute(text("RESET lock_timeout"))
        except exc.DBAPIError as error:
            raise _map_error(error) from error

    @contextmanager
    def stream(self) -> Iterator[Connection]:
        """Provide a connection whose results arrive in batches, in one read-only snapshot; for exports."""
        self.run_deferred_check()
        engine = self._engine if self.postgres else self._reader
        try:
            with engine.connect() as connection:
                set_deadline(connection, math.inf)
                if self.postgres:
                    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
                yield connection.execution_options(yield_per=1_000)
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise _map_error(error) from error

    def clock(self) -> datetime:
        """Return the reading of the deciding clock. A round trip on PostgreSQL."""
        return self.read(lambda connection: connection.execute(select(self.now)).scalar_one())

    def connections_in_use(self) -> int:
        """Return how many connections of this process's pools are in use."""
        pools = (self._engine.pool, self._reader.pool)
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._reader.dispose()

    def _drop_read_only_connections(self, context: ExceptionContext) -> None:
        """Drop every connection to a server that accepts no writes any more: new ones go to the primary.

        A demotion does not break those connections, and the reader's would go on returning data that no longer
        changes.
        """
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True
            self._reader.dispose()

    def _host_time(self) -> datetime:
        return datetime.fromtimestamp(self._host_clock.wall(), UTC)

    def _new_transaction(self, connection: Connection, *, attempt: int) -> Transaction:
        return Transaction(connection, self.dialect, attempt=attempt, started_at=self._host_clock.monotonic())

    @contextmanager
    def _autocommit_transaction(self, give_up_at: float) -> Iterator[Transaction]:
        with self._autocommit_writer.connect() as connection:
            set_deadline(connection, give_up_at)
            transaction = self._new_transaction(connection, attempt=1)
            if self._read_clock is not None:
                _INSTANT.set(self._read_clock())
            yield transaction

    @contextmanager
    def _transaction(self, attempt: int, give_up_at: float) -> Iterator[Transaction]:
        with self._one_writer, self._engine.connect() as connection, connection.begin():
            set_deadline(connection, give_up_at)
            if attempt > 1 and self.postgres:
                # An earlier attempt may have committed here and on no standby, if an operator cancelled its wait.
                # A COMMIT that has written waits until a standby has everything before it; one that only read does
                # not.
                connection.execute(_WRITE_SOMETHING)
            transaction = self._new_transaction(connection, attempt=attempt)
            if self._read_clock is not None:
                _INSTANT.set(self._read_clock())  # not before the write lock is held
            yield transaction


def _with_retry(run: Callable[[int], Result], *, budget_s: float, attempts: int = 1_000) -> Result:
    """Return `run(attempt)`; attempts that fail with a transient error are repeated, with jitter."""
    started = time.monotonic()
    try:
        # Outside of the loop: `retry_context` costs more than taking a pooled connection.
        return run(1)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        if not _is_transient(error):
            raise _map_error(error) from error
        first = error
    remaining_s = started + budget_s - time.monotonic()
    if remaining_s <= 0:
        raise _map_error(first) from first
    try:
        for attempt in stamina.retry_context(
            on=_is_transient,
            attempts=attempts - 1,
            timeout=remaining_s,
            wait_initial=0.02,
            wait_max=0.5,
            wait_jitter=0.1,
        ):
            with attempt:
                return run(attempt.num + 1)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        raise _map_error(error) from error
    raise AssertionError("unreachable: the last attempt raises")


def _is_transient(error: Exception) -> bool:
    """Return True if the whole transaction may be tried again; only such errors are retried."""
    if isinstance(error, exc.TimeoutError):  # no free connection in the pool; that wait outlasts most budgets
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in {"40001", "40P01", "55P03", READ_ONLY} or state[:2] in {"08", "57"}
    # Without a state: psycopg could not connect or lost the server; SQLite's lock was not free in time.
    return isinstance(error, exc.OperationalError) and not _is_missing_table(error)


def _is_missing_table(error: exc.OperationalError) -> bool:
    return "no such" in str(error.orig)


def _map_error(error: exc.DBAPIError | exc.TimeoutError) -> Exception:
    """Return the product's exception for an error of SQLAlchemy, or the error itself if there is none."""
    if isinstance(error, exc.TimeoutError) or _is_transient(error):
        return Busy("the database did not answer in time; nothing more was done", retry_after_s=2)
    if isinstance(error, exc.IntegrityError):
        name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        return ConstraintViolated(name or str(error.orig).rpartition(": ")[2])
    return error
