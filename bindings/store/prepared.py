"""Prepared statements of PostgreSQL, run without the driver's cursor.

A cursor builds its query, its adapters and its list of results again for each run: 50 µs of the client for a
statement of 37 parameters that takes 18 µs here (CPython 3.11, psycopg 3.3). Values, rows and errors are the
driver's, and so is what a value is sent as: a statement is prepared once for each combination of types.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg import errors, generators
from psycopg.adapt import PyFormat
from psycopg.adapt import Transformer as NewTransformer
from psycopg.pq import ExecStatus, Format, TransactionStatus

from bindings.store.deadline_connection import DeadlineConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.abc import PQGen, Transformer
    from psycopg.pq.abc import PGresult

MOST_OF_CONNECTION = 100  # prepared statements; the server keeps each until the connection ends
_PARAMETER = re.compile(r"%\(([^)]*)\)s|%%")


class PreparedStatement:
    """One statement that returns rows, for every connection. Thread-safe."""

    def __init__(self, sql: str) -> None:
        """Take the statement with its parameters as the driver's cursor has them: `%(name)s`."""
        numbers: dict[str, int] = {}
        self._sql = _PARAMETER.sub(
            lambda match: f"${numbers.setdefault(match[1], len(numbers) + 1)}" if match[1] else "%", sql
        ).encode()
        self._names = tuple(numbers)
        self._formats = [PyFormat.AUTO] * len(numbers)

    def can_run_on(self, connection: object) -> bool:
        """Return whether the connection may run it: the driver begins no transaction for it, as a cursor would."""
        if not isinstance(connection, DeadlineConnection) or connection.prepare_threshold is None:
            return False
        if len(connection.prepared) >= MOST_OF_CONNECTION:
            return False
        return connection.autocommit or connection.pgconn.transaction_status == TransactionStatus.INTRANS

    def fetch_all(self, connection: DeadlineConnection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run the statement and return its rows; raises the driver's errors."""
        transformer = connection.transformer
        if transformer is None:
            transformer = connection.transformer = NewTransformer(connection)
        result = connection.wait(self._run(connection, transformer, [values[name] for name in self._names]))
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)

    def _run(self, connection: DeadlineConnection, transformer: Transformer, values: list[Any]) -> PQGen[PGresult]:
        """Send the statement; nothing is sent before `DeadlineConnection.wait` allows it."""
        pgconn = connection.pgconn
        encoded = transformer.dump_sequence(values, self._formats)
        types, formats = transformer.types, transformer.formats
        name = connection.prepared.get((self, types))
        if name is None:
            name = b"bindings_%d" % next(connection.statement_numbers)
            pgconn.send_prepare(name, self._sql, types)
            yield from _result(connection, ExecStatus.COMMAND_OK)
            connection.prepared[self, types] = name
        pgconn.send_query_prepared(name, encoded, formats, Format.TEXT)
        return (yield from _result(connection, ExecStatus.TUPLES_OK))


def _result(connection: DeadlineConnection, expected: ExecStatus) -> PQGen[PGresult]:
    """Return the server's only result; raise the driver's error if it has another status than expected."""
    result: PGresult
    [result] = yield from generators.execute(connection.pgconn)
    if result.status != expected:
        raise errors.error_from_result(result, connection.info.encoding)
    return result
