"""The rows of a server cursor of PostgreSQL, a batch ahead of their use and without SQLAlchemy's rows.

SQLAlchemy fetches a batch when it is needed: then the server waits for the client, and the client for the server.
Here each batch is requested before the one before it is used. The values of a row are the driver's.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.pq.abc import PGresult
    from sqlalchemy import Connection, CursorResult

    from bindings.store.deadline_connection import DeadlineConnection

    Batch: TypeAlias = Sequence[Sequence[Any]]

LONGEST_STOP_S = 1.0  # how long a caller that stops early waits for the batch that was requested ahead


def batches(connection: Connection, result: CursorResult[Any], *, size: int) -> Iterator[Batch]:
    """Yield the rows of a result that is streamed (`yield_per`), in batches of at most `size`.

    The first batch is one row, which SQLAlchemy has read with the result. Raises SQLAlchemy's errors.
    """
    first = result.fetchone()
    if first is None:
        return
    cursor: Any = result.cursor
    fetch = f'FETCH FORWARD {size} FROM "{cursor.name}"'
    raw: Any = connection.connection.dbapi_connection
    try:
        yield from _fetched(raw, fetch.encode(), [first])
    except psycopg.Error as error:
        # As in `compiled`: it marks a lost connection, calls the error listeners, and raises SQLAlchemy's error.
        connection._handle_dbapi_exception(error, fetch, None, None, None)  # noqa: SLF001


def _fetched(connection: DeadlineConnection, fetch: bytes, first: Batch) -> Iterator[Batch]:
    """Yield the first batch, then what each run of `fetch` returns, until one returns nothing."""
    pgconn, transformer, rows = connection.pgconn, Transformer(connection), first
    # A run takes until all of its rows are sent: a caller that reads slowly would exceed a limit of the server.
    connection.execute("SET LOCAL statement_timeout = 0")
    try:
        while rows:
            pgconn.send_query(fetch)
            pgconn.flush()
            yield rows
            result = _only_result(connection)
            transformer.set_pgresult(result)
            rows = transformer.load_rows(0, result.ntuples, tuple)
    finally:
        if pgconn.transaction_status == TransactionStatus.ACTIVE:  # the caller stops early
            connection.give_up_at = time.monotonic() + LONGEST_STOP_S
            with suppress(psycopg.Error):
                connection.wait(generators.fetch_many(pgconn))


def _only_result(connection: DeadlineConnection) -> PGresult:
    result: PGresult
    [result] = connection.wait(generators.execute(connection.pgconn))
    if result.status != ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result, connection.info.encoding)
    return result
