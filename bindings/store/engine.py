"""Engines: connections to SQLite and PostgreSQL, and what holds for each of them.

The URL, the pool and its limit, the timeouts, the settings of a new connection, and that no error text shows a
value. Every wait of a connection ends at the deadline of `set_deadline`: on PostgreSQL that for the server's
response, on SQLite that for the lock of the file. A transaction on SQLite takes that lock when it begins.

What runs on a connection, and what is retried, is in `database`. Nothing here knows a table.
"""

from __future__ import annotations

import codecs
import math
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sqlalchemy import Connection, Engine, create_engine, event, exc, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from bindings.errors import InvalidRequest
from bindings.extras import require_extra
from bindings.fork_safety import ProcessMark, keep_alive
from bindings.store.connection_limit import ConnectionLimit
from bindings.store.failures import URL_VARIABLE
from bindings.store.phone_keys import attach
from bindings.store.sqlite_connection import SqliteConnection

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from sqlalchemy.engine import ExceptionContext

    from bindings.store.deadline_connection import DeadlineConnection
    from bindings.store.fork_gate import ForkGate
    from bindings.store.phone_keys import PhoneKeys

POOL_SIZE = 32  # of each engine
BUSY_TIMEOUT_S = 20  # SQLite, until `set_deadline` sets another one
READ_BUSY_TIMEOUT_S = 1  # for a read, which is tried again; it seldom waits
# Keepalives end the wait for a response of an unreachable host, tcp_user_timeout (ms) that for sent data.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
CONNECT_TIMEOUT_S = 4
STALE_PLAN = "0A000", "26000"  # "cached plan must not change result type"; "prepared statement does not exist"
RECYCLE_S = 1_800
_NO_TRANSACTION = 0  # PQTRANS_IDLE of libpq
UTF8 = "UTF8"
SQLITE_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "recursive_triggers = ON",  # otherwise REPLACE would bypass the triggers on events
    "cache_size = -8192",  # KiB a connection, of pages it has read. Of 2 MB, a few thousand bindings fill all.
)
# What reading and writing values depends on: a database or a role may have other defaults. The server reports a
# change of each of these, so that a pooler in transaction mode keeps them for this client, and for no other one.
SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
}
_SETTINGS = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SESSION.items())
# Of a statement that reads a few rows of a large table by indexes, the compilation is nearly all of the time. Only
# a warning of the server says that a commit is on no standby (`deadline_connection`). It does not report these
# settings: behind a pooler they would stay for other clients, so there they are not made.
DIRECT_SESSION = {"jit": "off", "client_min_messages": "warning"}
_DIRECT_SETTINGS = " || ".join(f"set_config('{name}', '{value}', false)" for name, value in DIRECT_SESSION.items())
SESSION_PROBES = 3  # a pooler may use its sessions in turn
_BEGIN_SESSION = (
    f"SELECT pg_backend_pid(), {_SETTINGS}, CASE WHEN pg_backend_pid() = %s THEN {_DIRECT_SETTINGS} END"
)


class Connections:
    """The connections of one engine: at most `size` at the server, including dropped ones. Thread-safe.

    They stay open between two uses, each with its SQLAlchemy `Connection`: SQLAlchemy's own pool makes that again
    for each use, which took a seventh of the client's time of a bind. `idle` of them stay open while they are not
    used; None: half of `size`.
    """

    def __init__(
        self,
        url: str,
        size: int,
        gate: ForkGate | None,
        *,
        idle: int | None = None,
        autocommit: bool = False,
        phone_keys: PhoneKeys | None = None,
    ) -> None:
        self.gate = gate
        self.process = ProcessMark()
        several_servers = not isinstance(driver_url(url).query.get("host", ""), str)
        self._url = url
        self.limit = ConnectionLimit(size, self._find_server if several_servers else None)
        self.engine = make_engine(url, autocommit=autocommit, limit=self.limit)
        attach(self.engine.dialect, phone_keys)
        self._most_idle = idle or (size + 1) // 2
        self._idle: list[_OpenConnection] = []  # the one that was used last is the last
        self._opened_after = -math.inf  # a connection that was opened before is not used again

    @property
    def count(self) -> int:
        """Return how many connections are in use, or were dropped and still work at the server."""
        return self.limit.count

    @property
    def idle(self) -> int:
        """Return how many connections are open and not in use."""
        return len(self._idle)

    def connect(self, wait_until: float) -> LentConnection:
        """Lend a connection; `DatabaseWaitTimeout` if none is free in time."""
        return LentConnection(self, wait_until)

    def close(self) -> None:
        """Lend no connection from now on; close those that are not in use, and the others at their return."""
        self.limit.close()
        self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        with suppress(IndexError):  # another thread has taken the last one
            while self._idle:
                self._idle.pop().connection.close()

    def drop(self) -> None:
        """Close every connection that is open now: those in use at their return."""
        self._opened_after = time.monotonic()
        self.close_idle()

    def take(self) -> _OpenConnection:
        """Return an idle connection, or a new one."""
        oldest = max(self._opened_after, time.monotonic() - RECYCLE_S)
        while self._idle:
            try:
                idle = self._idle.pop()
            except IndexError:  # another thread has taken the last one
                break
            if idle.opened_at > oldest:
                return idle
            idle.connection.close()
        opened_at = time.monotonic()
        connection = self.engine.connect()
        return _OpenConnection(connection, connection.connection.driver_connection, opened_at)

    def give_back(self, lent: _OpenConnection) -> None:
        """Keep a connection open for the next use, or close it."""
        connection = lent.connection
        reusable = lent.reset()
        if connection.invalidated:
            self.drop()  # the server has closed this one, and perhaps all of them
        if not reusable or lent.opened_at <= self._opened_after or len(self._idle) >= self._most_idle:
            connection.close()
            return
        self._idle.append(lent)
        if self.limit.closed:
            self.close_idle()

    def _find_server(self) -> None:
        with suppress(exc.SQLAlchemyError):
            make_engine(self._url, limit=self.limit).connect().close()


class _OpenConnection:
    """An open connection: SQLAlchemy's, the driver's, and when it was opened (monotonic clock)."""

    __slots__ = ("_autocommit", "connection", "opened_at", "raw")

    def __init__(self, connection: Connection, raw: Any, opened_at: float) -> None:
        self.connection = connection
        self.raw = raw
        self.opened_at = opened_at
        self._autocommit = None if isinstance(raw, SqliteConnection) else raw.autocommit

    def reset(self) -> bool:
        """Roll back what is open; return False if the connection is not as it was before its use."""
        connection, raw = self.connection, self.raw
        try:
            connection.rollback()  # also what SQLAlchemy begins before a read
        except exc.SQLAlchemyError:
            connection.invalidate()
        if connection.invalidated:
            return False
        if connection._trans_context_manager is not None:  # noqa: SLF001 -- a signal interrupted the end of its block
            return False
        if connection.get_execution_options() is not connection.engine.get_execution_options():
            return False
        if isinstance(raw, SqliteConnection):
            return not raw.in_transaction
        if raw.autocommit != self._autocommit:  # a signal interrupted `Database.write` when it set that back
            return False
        return bool(raw.pgconn.transaction_status == _NO_TRANSACTION)


class LentConnection:
    """A connection for the duration of a `with` block; a generator would cost more than the connection itself."""

    __slots__ = ("_connections", "_open", "_thread", "_wait_until")

    def __init__(self, connections: Connections, wait_until: float) -> None:
        self._connections = connections
        self._wait_until = wait_until

    @property
    def raw(self) -> Any:
        """Return the driver's connection."""
        return self._open.raw

    def __enter__(self) -> Connection:
        connections = self._connections
        if connections.gate is not None:
            self._thread = connections.gate.enter()
        try:
            connections.limit.acquire(self._wait_until)
            try:
                self._open = connections.take()
            except BaseException:
                connections.limit.release()
                raise
        except BaseException:
            self._leave()
            raise
        return self._open.connection

    def __exit__(self, *_: object) -> None:
        connections = self._connections
        try:
            if connections.process.is_this_process:
                connections.give_back(self._open)
            else:
                keep_alive(self._open)  # lent before a fork: it is the parent's
        finally:
            connections.limit.release()
            self._leave()

    def _leave(self) -> None:
        gate = self._connections.gate
        if gate is not None:
            gate.leave(self._thread)

    def set_deadline(self, instant: float, *, only_reads: bool = False) -> None:
        """End every wait of the connection at `instant` (monotonic clock).

        With `only_reads` a statement that is given up is cancelled at the server, also in AUTOCOMMIT (PostgreSQL).
        """
        raw = self._open.raw
        if not isinstance(raw, SqliteConnection):
            raw.give_up_at = instant
            raw.only_reads = only_reads
        elif instant < math.inf:
            _set_busy_timeout(self._open.connection, raw, instant - time.monotonic())


def make_engine(url: str, *, autocommit: bool = False, limit: ConnectionLimit | None = None) -> Engine:
    """Return an engine for `url`; it has not connected yet. `limit` counts the connections that are dropped."""
    target = driver_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target, autocommit=autocommit)
    with require_extra("postgres", field=URL_VARIABLE):
        from psycopg.pq import Conninfo
    _check_parameters(target, {option.keyword.decode() for option in Conninfo.get_defaults()})
    engine = create_engine(
        target,
        hide_parameters=True,
        connect_args={"prepare_threshold": None} | _timeouts(target),  # until `_connect` knows the server
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        skip_autocommit_rollback=autocommit,
        poolclass=NullPool,
    )
    event.listen(engine, "handle_error", _redact_error)
    event.listen(engine, "handle_error", _drop_on_stale_plan)
    event.listen(engine, "do_connect", partial(_connect, limit))
    event.listen(engine, "connect", _end_setup)  # after SQLAlchemy's own queries on a first connection
    return engine


def _check_parameters(target: URL, names: AbstractSet[str]) -> None:
    """Raise `InvalidRequest` for parameters of the URL that have other names than these, or occur twice."""
    unknown = sorted(target.query.keys() - names - {"prepare_threshold"})
    if unknown:
        message = f"has parameters that libpq does not know: {', '.join(unknown)}; leave them out"
        raise InvalidRequest.of_field(URL_VARIABLE, message)
    repeated = {name for name, value in target.query.items() if not isinstance(value, str)} - {"host", "port"}
    if repeated:
        message = f"has parameters more than once: {', '.join(sorted(repeated))}; write each once"
        raise InvalidRequest.of_field(URL_VARIABLE, message)


def text_encoding(connection: Connection) -> str:
    """Return the name of the encoding in which the database stores text. No round trip."""
    if connection.dialect.name == "sqlite":
        return UTF8
    raw: Any = connection.connection.driver_connection
    return str(raw.info.parameter_status("server_encoding"))


def is_pooled(connection: Connection) -> bool:
    """Return whether a pooler may be between this process and a PostgreSQL server. No round trip.

    Consecutive transactions may then run in different sessions of the server, and other clients use them as well.
    """
    raw: Any = connection.connection.driver_connection
    return connection.dialect.name == "postgresql" and raw.prepare_threshold is None


def shares_sessions(connection: Connection) -> bool:
    """Return whether a pooler was seen to run transactions of several connections in one session of the server.

    One in session mode does not, nor does a proxy that only reports process numbers of its own. Opens two more
    connections, and none if `connection` is direct.
    """
    if not is_pooled(connection):
        return False
    with connection.engine.connect() as first, connection.engine.connect() as second:
        return any(_use_one_session(first, second) for _ in range(SESSION_PROBES))


def _use_one_session(first: Connection, second: Connection) -> bool:
    number = _session_number(first)
    first.rollback()
    try:
        # The second one keeps the session that it gets; if that was the first one's, that gets another.
        return _session_number(second) == number or _session_number(first) != number
    finally:
        first.rollback()
        second.rollback()


def _session_number(connection: Connection) -> int:
    number: int = connection.execute(select(func.pg_backend_pid())).scalar_one()
    return number


def codec_of(encoding: str) -> str:
    """Return Python's codec for an encoding of PostgreSQL; ASCII, which each of them has, if there is none."""
    try:
        return codecs.lookup(encoding.replace("WIN", "cp")).name
    except LookupError:  # SQL_ASCII among others: it stores bytes of any meaning
        return "ascii"


def _set_busy_timeout(connection: Connection, raw: Any, seconds: float) -> None:
    """Set how long SQLite waits for the lock of its file, in steps of 0.1 s, if it is not set already."""
    tenths = max(0, math.ceil(10 * seconds))
    if connection.info.get("busy_timeout") != tenths:
        raw.execute(f"PRAGMA busy_timeout = {100 * tenths}")
        connection.info["busy_timeout"] = tenths


def _connect(
    limit: ConnectionLimit | None, _dialect: Any, _record: Any, args: list[Any], kwargs: dict[str, Any]
) -> Any:
    from bindings.store.deadline_connection import DeadlineConnection

    connection = DeadlineConnection.connect(*args, **kwargs)
    # A pooler accepts a client also while its server is away: without a limit the first query would wait with it.
    connection.give_up_at = time.monotonic() + CONNECT_TIMEOUT_S
    if limit is not None:
        connection.limit = limit
        limit.opened(connection.pgconn.socket)
    try:
        _set_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: DeadlineConnection) -> None:
    """Make the settings of a new connection, and see whether a pooler is in between."""
    from psycopg.types.string import TextLoader

    connection.adapters.register_loader("uuid", TextLoader)  # ids are text here: no object is made for each
    # Instants arrive in UTC: from a named zone the driver and `Instant` would both convert each of them, which is
    # a quarter of the time of an export. Not a startup option: poolers reject those, and keep this setting.
    connection.set_autocommit(True)
    own_process = connection.info.backend_pid
    [(process, *_)] = connection.execute(_BEGIN_SESSION, (own_process,)).fetchall()
    connection.set_autocommit(False)
    # Prepared statements break behind a transaction pooler (psycopg#280), which reports a process id of its own
    # and not the server's. Only `CompiledStatement` prepares: other statements are planned with their values.
    connection.prepare_threshold = sys.maxsize if process == own_process else None


def _end_setup(connection: Any, _record: Any) -> None:
    """Let the user of a new connection set its deadline."""
    connection.give_up_at = math.inf


def _timeouts(url: URL) -> dict[str, Any]:
    """Return the timeouts of a connection: a dead server blocks no caller. Those in the URL take precedence."""
    timeouts: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S} | KEEPALIVE
    if not isinstance(url.query.get("host", ""), str):
        # Several hosts, one of which accepts writes. A dead one costs its timeout, so that is the shortest.
        timeouts |= {"target_session_attrs": "read-write", "connect_timeout": 2}
    return {name: value for name, value in timeouts.items() if name not in url.query}


def _redact_error(context: ExceptionContext) -> None:
    """Remove the server's DETAIL from the error: it shows rows and keys, phones among them."""
    diagnosis = getattr(context.original_exception, "diag", None)
    if diagnosis is None or diagnosis.message_detail is None:
        return
    context.original_exception.args = (diagnosis.message_primary,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (diagnosis.message_primary,)


def _drop_on_stale_plan(context: ExceptionContext) -> None:
    """Drop the connections whose prepared statements are out of date: a migration changed the type of a column.

    The statement did not run, so it is tried again on a new connection.
    """
    if getattr(context.original_exception, "sqlstate", None) in STALE_PLAN:
        context.is_disconnect = True


def _sqlite_engine(url: URL, *, autocommit: bool) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        paramstyle="named",  # a value that is used several times is converted and bound once
        connect_args={"timeout": BUSY_TIMEOUT_S, "factory": SqliteConnection},
        skip_autocommit_rollback=autocommit,
        poolclass=NullPool,
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # no BEGIN except ours: the driver's loses updates silently
        busy_timeout_s = READ_BUSY_TIMEOUT_S if autocommit else BUSY_TIMEOUT_S
        for pragma in (f"busy_timeout = {busy_timeout_s * 1_000}", *SQLITE_PRAGMAS):
            connection.execute(f"PRAGMA {pragma}")
        connection.note_wal()

    if not autocommit:  # a listener, even an idle one, slows every statement of its engine
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _begin_immediate(connection: Connection) -> None:
    # Nothing commits under AUTOCOMMIT: after a BEGIN here every write would be lost silently.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def driver_url(url: str) -> URL:
    """Return the URL for SQLAlchemy; libpq's list of hosts (`db1:5432,db2:5432`) is accepted too."""
    try:
        return _parse_url(url)
    except (exc.ArgumentError, ValueError):
        # Without its cause: that may repeat a part of the password.
        raise InvalidRequest.of_field(URL_VARIABLE, "is not the URL of a database") from None


def _parse_url(url: str) -> URL:
    scheme, _, location = url.partition("://")
    if scheme.startswith("sqlite"):
        return make_url(url)
    authority, slash, path = location.partition("/")
    user, at, hosts = authority.rpartition("@")
    user = user.replace("@", "%40")  # of a password: the last one ends it
    if "%2f" in hosts.lower():  # the folder of a Unix socket, in the form of libpq
        folder, _, port = unquote(hosts).partition(":")
        parsed = make_url(f"postgresql+psycopg://{user}{at}{slash}{path}")
        return parsed.update_query_dict({"host": folder} | ({"port": port} if port else {}))
    if "," not in hosts:
        return make_url(f"postgresql+psycopg://{user}{at}{hosts}{slash}{path}")
    parsed = make_url(f"postgresql+psycopg://{user}{at}{slash}{path}")
    return parsed.update_query_pairs([("host", host) for host in hosts.split(",")], append=True)
