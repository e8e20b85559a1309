"""Hot statements: compiled once, and run by the driver alone (`prepared`, or its own cursor).

For each run of a statement SQLAlchemy looks up the compiled form by a cache key and builds a context, a result and
its rows. For a small statement that takes longer than the database does. Here it is done once for each statement:
values and rows still pass through the column types, and an error is handed to SQLAlchemy, which tells a lost
connection from a mistake. Only for lookups, for what a bind writes, and for what the pages about a number read:
listeners of SQLAlchemy do not see these statements.

Measured for a lookup that returns no row (SQLite, CPython 3.11): 9.4 µs here, 24.3 µs by `Connection.execute`.
When a release of SQLAlchemy fails `test_compiled_statement_makes_less_than_half_of_the_calls_of_sqlalchemy`, this
module can be replaced by `Connection.execute(statement, values).all()`: the other tests of
tests/store/test_compiled.py hold both to the same rows and the same errors.
"""

from __future__ import annotations

import json
from collections import namedtuple
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON

from bindings.store.phone_keys import keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import CompoundSelect, Connection, Dialect, Select
    from sqlalchemy.types import TypeEngine

    from bindings.store.phone_keys import PhoneKeys
    from bindings.store.prepared import PreparedStatement

    Convert = Callable[[Any], Any]


# Most statements with a clock that are kept: that of a server is one, but each SQLite database has its own, and a
# process may open and close one for each of its tasks.
MOST_CLOCKS = 8


class CompiledStatement:
    """A SELECT that is run often, or a change that returns rows (a SELECT from a CTE). Thread-safe."""

    def __init__(self, statement: Select[*tuple[Any, ...]] | CompoundSelect[Any]) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, PhoneKeys | None], _Compiled] = {}

    def fetch_all(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Run the statement and return its rows as named tuples; raises the errors that SQLAlchemy would raise."""
        dialect = connection.dialect
        used_for = dialect.name, keys_of(dialect)  # the conversions depend on both
        compiled = self._compiled.get(used_for)
        if compiled is None:
            compiled = self._compiled[used_for] = _Compiled(self._statement, dialect)
        parameters = compiled.parameters(values)
        cursor = None
        try:
            raw: Any = connection.connection.dbapi_connection
            rows = None if compiled.prepared is None else compiled.prepared.fetch_all(raw, parameters)
            if rows is None:
                cursor = raw.cursor()
                cursor.execute(compiled.sql, parameters, **compiled.options)
                rows = cursor.fetchall()
                cursor.close()
        except compiled.driver_error as error:
            # SQLAlchemy has no public name for this: it marks a lost connection, calls the error listeners, and
            # raises SQLAlchemy's own error. A test fails if a release renames it or changes its parameters.
            connection._handle_dbapi_exception(error, compiled.sql, parameters, cursor, None)  # noqa: SLF001
        return [compiled.row(row) for row in rows]


def _prepared(sql: str) -> PreparedStatement:
    from bindings.store.prepared import PreparedStatement  # which needs the driver for PostgreSQL

    return PreparedStatement(sql)


def _bind_processor(type_: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    """Return the conversion of a value of the type; PostgreSQL gets JSON as text."""
    implementation = type_.dialect_impl(dialect)
    if dialect.name == "postgresql" and isinstance(implementation, JSON):
        return _json_text
    return implementation.bind_processor(dialect)


def _json_text(value: Any) -> str:
    return "{}" if value == {} else json.dumps(value)  # as the detail of most events is


class _Compiled:
    """The text of a statement for one dialect, and the conversions of its values and of its rows' columns."""

    def __init__(self, statement: Select[*tuple[Any, ...]] | CompoundSelect[Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.driver_error: type[Exception] = dialect.loaded_dbapi.Error
        # If the connection allows it (see `engine`), the server parses and plans the statement once.
        self.options = {"prepare": True} if dialect.name == "postgresql" else {}
        self.prepared = _prepared(self.sql) if dialect.name == "postgresql" else None
        binds = compiled.binds.items()
        self._defaults = {name: bind.value for name, bind in binds}
        self._clocks = [(name, bind.callable) for name, bind in binds if bind.callable is not None]
        processors = [(name, _bind_processor(bind.type, dialect)) for name, bind in binds]
        self._conversions = [(name, convert) for name, convert in processors if convert is not None]
        columns = list(statement.selected_columns)
        converters = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._converters = [(index, convert) for index, convert in enumerate(converters) if convert is not None]
        names = [str(column.key) for column in columns]
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 -- a name for each column
        self._row: Convert = partial(tuple.__new__, row)  # as `_make`, which is a function of Python

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the driver's parameters: the values of this run, and the clock if it is read in this process."""
        parameters = {**self._defaults, **values}
        for name, read in self._clocks:
            if name not in values:
                parameters[name] = read()
        for name, convert in self._conversions:
            parameters[name] = convert(parameters[name])
        return parameters

    def row(self, values: tuple[Any, ...]) -> Any:
        """Return a row of the driver with its values converted."""
        row = list(values)
        for index, convert in self._converters:
            row[index] = convert(row[index])
        return self._row(row)
