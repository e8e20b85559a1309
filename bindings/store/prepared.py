"""Prepared statements of PostgreSQL, run without the driver's cursor.

A cursor builds its query, its adapters and its list of results again for each run: 50 µs of the client for a
statement of 37 parameters that takes 18 µs here (CPython 3.11, psycopg 3.3). Values, rows and errors are the
driver's. A value is sent as text, an instant in binary form: its text takes both sides longer. If the statement
has a cast for a value, the server takes its type from there: the driver has three types for an integer, by its
size, and none for None, and would prepare the statement for each.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from struct import Struct
from typing import TYPE_CHECKING, Any

from psycopg import errors, generators
from psycopg.adapt import PyFormat
from psycopg.adapt import Transformer as NewTransformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.waiting import Ready, Wait

from bindings.store.deadline_connection import DeadlineConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.abc import Buffer, PQGen
    from psycopg.pq.abc import PGconn, PGresult

MOST_OF_CONNECTION = 100  # prepared statements; the server keeps each until the connection ends
_PARAMETER = re.compile(r"%\(([^)]*)\)s(?=(::)?(TIMESTAMP WITH TIME ZONE)?)|%%")
_BINARY_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # an instant in binary form counts microseconds from then on
_INT8 = Struct("!q")


class PreparedStatement:
    """One statement that returns rows, for every connection. Thread-safe."""

    def __init__(self, sql: str) -> None:
        """Take the statement with its parameters as the driver's cursor has them: `%(name)s`."""
        numbers: dict[str, int] = {}
        typed: dict[str, None] = {}
        instants: dict[str, None] = {}

        def number(match: re.Match[str]) -> str:
            name, has_cast, is_instant = match.groups()
            if name is None:
                return "%"
            if not has_cast:
                typed[name] = None
            elif is_instant:
                instants[name] = None
            return f"${numbers.setdefault(name, len(numbers) + 1)}"

        self._sql = _PARAMETER.sub(number, sql).encode()
        self._names = tuple(numbers)
        self._formats = [PyFormat.TEXT] * len(numbers)
        self._typed = [numbers[name] - 1 for name in typed]
        self._instants = [numbers[name] - 1 for name in instants if name not in typed]
        self._sent_formats = [Format.TEXT] * len(numbers)
        for index in self._instants:
            self._sent_formats[index] = Format.BINARY

    def fetch_all(self, connection: object, values: Mapping[str, Any]) -> list[tuple[Any, ...]] | None:
        """Run the statement and return its rows; raises the driver's errors.

        None if the driver's cursor has to run it: behind a pooler, where the driver would begin a transaction, and
        for one more statement on a connection that has prepared the most.
        """
        if not isinstance(connection, DeadlineConnection) or connection.prepare_threshold is None:
            return None
        if not connection.autocommit and connection.pgconn.transaction_status != TransactionStatus.INTRANS:
            return None
        transformer = connection.transformer
        if transformer is None:
            transformer = connection.transformer = NewTransformer(connection)
        parameters = [values[name] for name in self._names]
        instants = [_binary(parameters[index]) for index in self._instants]
        for index in self._instants:
            parameters[index] = None
        encoded = list(transformer.dump_sequence(parameters, self._formats))
        for index, instant in zip(self._instants, instants, strict=True):
            encoded[index] = instant
        types = transformer.types or ()
        key = self, *(types[index] for index in self._typed)
        name = connection.prepared.get(key)
        if name is None and len(connection.prepared) >= MOST_OF_CONNECTION:
            return None
        result = connection.run(self._run, connection, key, name, encoded)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _run(
        self,
        connection: DeadlineConnection,
        key: tuple[Any, ...],
        name: bytes | None,
        encoded: Sequence[Buffer | None],
    ) -> PGresult:
        """Send the statement and return its result. `key` is what it is prepared for: itself and the types."""
        pgconn = connection.pgconn
        if name is None:
            name = b"bindings_%d" % next(connection.statement_numbers)
            types = dict(zip(self._typed, key[1:], strict=True))
            pgconn.send_prepare(name, self._sql, [types.get(index, 0) for index in range(len(encoded))])
            _result(connection, ExecStatus.COMMAND_OK)
            connection.prepared[key] = name
        pgconn.send_query_prepared(name, encoded, self._sent_formats, Format.TEXT)
        return _result(connection, ExecStatus.TUPLES_OK)


def _binary(instant: datetime | None) -> bytes | None:
    """Return an instant as PostgreSQL receives it in binary form."""
    if instant is None:
        return None
    since = instant - _BINARY_EPOCH
    return _INT8.pack((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _result(connection: DeadlineConnection, expected: ExecStatus) -> PGresult:
    """Return the server's only result; raise the driver's error if it has another status than expected.

    The driver's generator does the same, and releases the interpreter's lock nine times for it, not four times:
    each release may switch to a thread that waits for the lock.
    """
    pgconn = connection.pgconn
    if pgconn.flush():
        connection.wait(_flush(pgconn))
    else:
        connection.receive()  # nothing can be there yet
    while pgconn.is_busy():
        connection.receive()
    result = pgconn.get_result()
    if result is None:
        raise errors.InternalError("the server sent no result")
    failure: PGresult | None = result
    if result.status == expected:
        while pgconn.is_busy():
            connection.receive()
        failure = pgconn.get_result()  # of the commit: in AUTOCOMMIT it follows the rows
    if failure is not None:
        with suppress(errors.DatabaseError):  # the connection may end with the error
            connection.wait(generators.fetch_many(pgconn))
        raise errors.error_from_result(failure, connection.info.encoding)
    return result


def _flush(pgconn: PGconn) -> PQGen[None]:
    """Send what is left of a statement, and receive meanwhile: the server may have to get rid of a notice."""
    while pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            pgconn.consume_input()
