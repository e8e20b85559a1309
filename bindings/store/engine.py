"""Engines: how a connection to SQLite or PostgreSQL is made, and what holds for every one.

The address, the pool, the time-outs, what a new connection is told before its first use, and that no error's text
shows a value. A connection waits for nothing for ever: `end_waits_at` ends its waits on PostgreSQL, the busy
time-out those for SQLite's write lock. A transaction of SQLite takes that lock as it begins.

What is run on a connection, and what is tried again, is `database`. Nothing here knows a table.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

BUSY_TIMEOUT_S = 20  # SQLite's waiting is unfair: waits of 6 s were measured under load
# Keepalives end the wait for an answer of a host that is gone, tcp_user_timeout (ms) that for what was sent.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
CONNECT_TIMEOUT_S = 4
STALE_PLAN = "0A000", "26000"  # "cached plan must not change result type"; a prepared statement that is not there
POOL = {"pool_size": 16, "max_overflow": 16, "pool_timeout": 5, "pool_recycle": 1_800}
SQLITE_PRAGMAS = (
    f"busy_timeout = {BUSY_TIMEOUT_S * 1_000}",
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "recursive_triggers = ON",  # else REPLACE would slip past the triggers on events
)
_BEGIN_SESSION = "SELECT pg_backend_pid() FROM set_config('TimeZone', 'UTC', false)"


def make_engine(url: str, *, autocommit: bool = False) -> Engine:
    """An engine for `url` as this product needs it; connects to nothing yet."""
    target = _driver_url(url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target, autocommit=autocommit)
    engine = create_engine(
        target,
        hide_parameters=True,
        connect_args={"prepare_threshold": None} | _timeouts(target),  # until `_connect` has seen the server
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        skip_autocommit_rollback=autocommit,
        **POOL,
    )
    event.listen(engine, "handle_error", _redact_error)
    event.listen(engine, "handle_error", _drop_on_stale_plan)
    event.listen(engine, "do_connect", _connect)
    return engine


def set_deadline(connection: Connection, instant: float) -> None:
    """Let no wait of this connection last past `instant` (monotonic); PostgreSQL only."""
    raw: Any = connection.connection.driver_connection
    if hasattr(raw, "give_up_at"):
        raw.give_up_at = instant


def _connect(_dialect: Any, _record: Any, given: list[Any], named: dict[str, Any]) -> Any:
    from psycopg.types.string import TextLoader

    from bindings.store.deadline_connection import DeadlineConnection

    connection = DeadlineConnection.connect(*given, **named)
    connection.adapters.register_loader("uuid", TextLoader)  # ids are text here: no object is made for each
    # Instants come as UTC: from a named zone the driver and `Instant` would both convert each one, for a quarter
    # of the time that an export takes. Not as a startup option, which poolers refuse; this setting they keep.
    connection.set_autocommit(True)
    [(process,)] = connection.execute(_BEGIN_SESSION).fetchall()
    connection.set_autocommit(False)
    # Prepared statements break behind a transaction pooler (psycopg#280), which gives no server process's number
    # but one of its own. Only `Hot` asks for one: what is not run often is planned with its values.
    connection.prepare_threshold = sys.maxsize if process == connection.info.backend_pid else None
    return connection


def _timeouts(url: URL) -> dict[str, Any]:
    """A server that does not answer must not hang a caller; what the address itself says goes first."""
    wanted: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S} | KEEPALIVE
    if not isinstance(url.query.get("host", ""), str):
        # Several hosts, of which one takes writes; each that is gone costs a timeout, so it is the shortest.
        wanted |= {"target_session_attrs": "read-write", "connect_timeout": 2}
    return {name: value for name, value in wanted.items() if name not in url.query}


def _redact_error(context: ExceptionContext) -> None:
    """Keep the server's DETAIL out of every error text: it shows rows and keys, phones among them."""
    diagnosis = getattr(context.original_exception, "diag", None)
    if diagnosis is None or diagnosis.message_detail is None:
        return
    context.original_exception.args = (diagnosis.message_primary,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (diagnosis.message_primary,)


def _drop_on_stale_plan(context: ExceptionContext) -> None:
    """Drop the connections whose prepared statements fit no more: a migration gave a column another type.

    Nothing was run, so the statement is tried again, on a new one.
    """
    if getattr(context.original_exception, "sqlstate", None) in STALE_PLAN:
        context.is_disconnect = True


def _sqlite_engine(url: URL, *, autocommit: bool) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        paramstyle="named",  # a value that stands in several places is converted and bound once
        connect_args={"timeout": BUSY_TIMEOUT_S},
        skip_autocommit_rollback=autocommit,
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
        **POOL,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # no BEGIN but ours: the driver's own loses updates silently
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    if not autocommit:  # a listener, even an idle one, makes every statement of its engine dearer
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _begin_immediate(connection: Connection) -> None:
    # Under AUTOCOMMIT nobody commits: a BEGIN here would make every write vanish without a word.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _driver_url(url: str) -> URL:
    """The address as SQLAlchemy reads it; libpq's own list of hosts (`db1:5432,db2:5432`) is understood too."""
    scheme, _, rest = url.partition("://")
    if scheme.startswith("sqlite"):
        return make_url(url)
    authority, slash, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if "," not in hosts:
        return make_url(f"postgresql+psycopg://{rest}")
    parsed = make_url(f"postgresql+psycopg://{user}{at}{slash}{path}")
    return parsed.update_query_pairs([("host", host) for host in hosts.split(",")], append=True)
