"""Transactions, retries and the clock: how the product works with SQLite and PostgreSQL.

How they are reached is `engine`. Nothing here knows a table but Alembic's own. Every write goes through
`Database.write`, which runs its work as one transaction and may run it again: work handed to it must be safe to
repeat. No connection is ever held while the provider is called.

The clock that decides is the database's (lifecycle: Clock). On SQLite, where the database has none of its own
worth the name, it is this host's, read once per transaction after the write lock is held.
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

from bindings.errors import Busy, SchemaOutOfDate
from bindings.store.column_types import Instant
from bindings.store.compiled import CompiledStatement
from bindings.store.engine import make_engine, set_deadline
from bindings.store.schema import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Select, Table
    from sqlalchemy.engine import ExceptionContext

    ReadClock: TypeAlias = Callable[[], datetime]

Params = ParamSpec("Params")
Result = TypeVar("Result")

LONGEST_TRY_S = 35.0  # past the longest statement timeout that a pass sets
READ_ONLY = "25006"  # what a server says that takes no writes
RETRY_BUDGET_S = 4.0  # a bind must not leave later than 5 s after its intent

# The instant of the running transaction, where the deciding clock is not the server's own.
_INSTANT: ContextVar[datetime] = ContextVar("instant")
_FIXED_NOW = bindparam("clock", callable_=_INSTANT.get, type_=Instant)
_SERVER_NOW: ColumnElement[datetime] = func.clock_timestamp(type_=Instant)  # now() stands still in a transaction


@dataclass(frozen=True, slots=True)
class SqlDialect:
    """Which SQL a transaction speaks, and whose clock decides. Statements are built once for each dialect."""

    postgres: bool
    server_clock: bool

    @property
    def now(self) -> ColumnElement[datetime]:
        """The clock that decides, as SQL; read anew for each row on PostgreSQL."""
        return _SERVER_NOW if self.server_clock else _FIXED_NOW

    @property
    def now_once(self) -> ColumnElement[datetime]:
        """The same, read once for a whole statement: only this one can be looked up in an index."""
        return select(_SERVER_NOW).scalar_subquery() if self.server_clock else _FIXED_NOW

    @property
    def insert(self) -> Callable[[Table], Any]:
        """The INSERT that knows ON CONFLICT."""
        return postgresql.insert if self.postgres else sqlite.insert


class ConstraintViolated(Exception):
    """A write broke a constraint and was rolled back; `constraint` is its name, or its columns on SQLite."""

    def __init__(self, constraint: str) -> None:
        super().__init__(f"the write broke {constraint}")
        self.constraint = constraint


class Transaction:
    """One running write transaction.

    `attempt` counts from 1; on a repeat an earlier try may have committed. `began` is a reading of the
    monotonic clock from before the deciding clock was read (on SQLite, from after the write lock was had).
    """

    def __init__(self, connection: Connection, dialect: SqlDialect, *, attempt: int) -> None:
        self.began = time.monotonic()
        self.connection = connection
        self.dialect = dialect
        self.attempt = attempt

    def instant(self) -> datetime:
        """The clock that decides, as a value. On PostgreSQL this is a round trip."""
        return self.connection.execute(_READ_CLOCK).scalar_one() if self.dialect.server_clock else _INSTANT.get()

    def lock(
        self, keys: list[int], *, timeout_s: float, reading: tuple[ColumnElement[Any], ...], **values: Any
    ) -> tuple[datetime, Sequence[Any]]:
        """Wait for the advisory locks `keys` (sorted here, so that nobody deadlocks); then read the clock.

        Returns the instant and what `reading` (scalar subqueries, with their `values`) reads. One round trip on
        PostgreSQL. The locks go with the transaction. The check that follows must be a statement of its own: a
        statement's snapshot is older than the locks it waits for, and so is what `reading` reads. On SQLite
        BEGIN IMMEDIATE is the lock.
        """
        if not self.dialect.postgres:
            return self.instant(), self.connection.execute(_read_all(reading), values).one()
        values |= {"wait": f"{timeout_s}s"} | {f"key_{index}": key for index, key in enumerate(sorted(keys))}
        ((*locked, now),) = _locks(len(keys), reading).fetch_all(self.connection, values)
        return (now if self.dialect.server_clock else self.instant()), locked[1 + len(keys) :]

    def set_statement_timeout(self, seconds: float) -> None:
        """Let no statement of this transaction run longer than `seconds` (PostgreSQL)."""
        if self.dialect.postgres:
            self.connection.execute(_LIMIT, {"longest": f"{seconds}s"})


_READ_CLOCK = select(_SERVER_NOW)
_WRITE_SOMETHING = select(cast(func.pg_logical_emit_message(literal_column("true"), "bindings", "again"), Text))
_LIMIT = select(func.set_config("statement_timeout", bindparam("longest"), literal_column("true")))


@cache
def _read_all(reading: tuple[ColumnElement[Any], ...]) -> Select[*tuple[Any, ...]]:
    return select(*reading)


@cache
def _locks(count: int, reading: tuple[ColumnElement[Any], ...]) -> CompiledStatement:
    """Wait for `count` locks, not longer than :wait each, and only then read the clock: columns go in order."""
    wait = func.set_config("lock_timeout", bindparam("wait"), literal_column("true"))
    keys = [bindparam(f"key_{index}", type_=BigInteger) for index in range(count)]
    locks = (func.pg_advisory_xact_lock(key) for key in keys)
    return CompiledStatement(select(wait, *locks, *reading, _SERVER_NOW))


class Database:
    """The two engines of one database and its clock. Thread-safe; not across fork.

    `read_clock` replaces the clock that decides (tests).
    """

    def __init__(self, url: str, *, read_clock: ReadClock | None = None) -> None:
        self._engine = make_engine(url)
        self._reader = make_engine(url, autocommit=True)
        self.postgres = self._engine.dialect.name == "postgresql"
        # Of the writer's pool: who waits for a commit must never keep a lookup from its connection.
        self._at_once = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self.postgres:
            event.listen(self._engine, "handle_error", self._drop_read_only_connections)
        self._read_clock = read_clock if read_clock is not None or self.postgres else _host_clock
        self.dialect = SqlDialect(postgres=self.postgres, server_clock=self._read_clock is None)
        # SQLite lets one process's threads starve each other; queueing for a lock of our own is fair.
        self._one_writer = nullcontext() if self.postgres else threading.Lock()
        self.now: ColumnElement[datetime] = (
            select(func.clock_timestamp(type_=Instant)).scalar_subquery()  # once per statement: index-usable
            if self._read_clock is None
            else bindparam("clock", callable_=self._read_clock, type_=Instant)
        )

    def write(
        self,
        work: Callable[[Transaction], Result],
        *,
        budget_s: float = RETRY_BUDGET_S,
        attempt_timeout_s: float | None = None,
        autocommit_first: Callable[[Transaction], Result | None] | None = None,
    ) -> Result:
        """Run `work` in one durable transaction and commit.

        `at_once` is for what is nearly always one statement: on PostgreSQL the first try runs it as a transaction
        of its own, committed in the same round trip. Where it returns None it has changed nothing: `work` runs.

        A serialization failure, a deadlock or a lost connection runs the whole work again, with jitter, within
        `budget_s` seconds; so does a COMMIT whose reply was lost, and then the first try may have committed.
        With `try_s` no try waits longer than that for the server, nor past the budget; without it a try may
        outlast the budget. Raises `Busy` when the budget is spent (an earlier try may yet commit, once a
        standby is back), `ConstraintViolated` where the database refused a value.
        """
        spent_at = time.monotonic() + budget_s

        def once(attempt: int) -> Result:
            give_up_at = time.monotonic() + (attempt_timeout_s or LONGEST_TRY_S)
            if attempt_timeout_s is not None:
                give_up_at = min(give_up_at, spent_at)
            if autocommit_first is not None and attempt == 1 and self.postgres:
                with self._autocommit_transaction(give_up_at) as transaction:
                    done = autocommit_first(transaction)
                if done is not None:
                    return done
            with self._transaction(attempt, give_up_at) as transaction:
                return work(transaction)

        return _with_retry(once, budget_s=budget_s)

    def read(
        self, query: Callable[Concatenate[Connection, Params], Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return `query(connection, *args, **kwargs)`, run in AUTOCOMMIT: each statement is one round trip.

        A lost connection repeats the whole query. Safe to repeat; `Busy` if the database does not answer.
        """

        def attempt_read(_attempt: int) -> Result:
            with self._reader.connect() as connection:
                set_deadline(connection, time.monotonic() + LONGEST_TRY_S)
                return query(connection, *args, **kwargs)

        return _with_retry(attempt_read, budget_s=RETRY_BUDGET_S, attempts=3)

    def run_outside_transaction(self, work: Callable[[Connection], object], *, lock_wait: str) -> None:
        """Run statements that no transaction may contain, in AUTOCOMMIT; `Busy` where a lock is not had."""
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
        """A connection whose results arrive in batches, in one read-only snapshot; for exports."""
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
        """Read the clock that decides."""
        return self.read(lambda connection: connection.execute(select(self.now)).scalar_one())

    def revision(self) -> str | None:
        """The schema's revision, or None where no migration has run."""

        def query(connection: Connection) -> Any:
            if not connection.dialect.has_table(connection, "alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

        found: str | None = self.read(query)
        return found

    def check_schema(self) -> None:
        """Raise `SchemaOutOfDate` unless the schema is the one that this code needs."""
        found = self.revision()
        if found != HEAD:
            raise SchemaOutOfDate(
                f"the database schema is at {found or 'nothing'}, this version needs {HEAD};"
                " run `bindings db upgrade`"
            )

    def connections_in_use(self) -> int:
        """How many connections of this process's pools are at work."""
        pools = (self._engine.pool, self._reader.pool)
        return sum(pool.checkedout() for pool in pools if isinstance(pool, QueuePool))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._reader.dispose()

    def _drop_read_only_connections(self, context: ExceptionContext) -> None:
        """Drop every connection to a server that takes no writes any more: the next ones find the primary.

        Nothing breaks those connections by itself, and the reader's would go on answering with what stands
        still there.
        """
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True
            self._reader.dispose()

    @contextmanager
    def _autocommit_transaction(self, give_up_at: float) -> Iterator[Transaction]:
        with self._at_once.connect() as connection:
            set_deadline(connection, give_up_at)
            transaction = Transaction(connection, self.dialect, attempt=1)
            if self._read_clock is not None:
                _INSTANT.set(self._read_clock())
            yield transaction

    @contextmanager
    def _transaction(self, attempt: int, give_up_at: float) -> Iterator[Transaction]:
        with self._one_writer, self._engine.connect() as connection, connection.begin():
            set_deadline(connection, give_up_at)
            if attempt > 1 and self.postgres:
                # An earlier try may have committed here and on no standby, its wait ended by hand. A COMMIT that
                # has written waits for a standby to have all that came before it; one that only read does not.
                connection.execute(_WRITE_SOMETHING)
            transaction = Transaction(connection, self.dialect, attempt=attempt)
            if self._read_clock is not None:
                _INSTANT.set(self._read_clock())  # only now that the write lock is held
            yield transaction


def _with_retry(once: Callable[[int], Result], *, budget_s: float, attempts: int = 1_000) -> Result:
    """What `once` returns. Called again, with jitter, while it fails for a passing reason; it is told the try."""
    began = time.monotonic()
    try:
        # Outside of the loop, whose machinery costs more than a pooled connection.
        return once(1)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        if not _is_transient(error):
            raise _map_error(error) from error
        first = error
    left = began + budget_s - time.monotonic()
    if left <= 0:
        raise _map_error(first) from first
    try:
        for attempt in stamina.retry_context(
            on=_is_transient,
            attempts=attempts - 1,
            timeout=left,
            wait_initial=0.02,
            wait_max=0.5,
            wait_jitter=0.1,
        ):
            with attempt:
                return once(attempt.num + 1)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        raise _map_error(error) from error
    raise AssertionError("unreachable: the last attempt raises")


def _host_clock() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _is_transient(error: Exception) -> bool:
    """Whether the whole transaction may be tried again: nothing else is retried."""
    if isinstance(error, exc.TimeoutError):  # no connection free in the pool: that wait outlasts most budgets
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in {"40001", "40P01", "55P03", READ_ONLY} or state[:2] in {"08", "57"}
    # Without a state: psycopg could not connect or lost the server; SQLite's lock was not to be had.
    return isinstance(error, exc.OperationalError) and not _missing_table(error)


def _missing_table(error: exc.OperationalError) -> bool:
    return "no such" in str(error.orig)


def _map_error(error: exc.DBAPIError | exc.TimeoutError) -> Exception:
    if isinstance(error, exc.TimeoutError) or _is_transient(error):
        return Busy("the database did not answer in time; nothing more was done", retry_after_s=2)
    if isinstance(error, exc.IntegrityError):
        name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        return ConstraintViolated(name or str(error.orig).rpartition(": ")[2])
    return error
