"""Hot statements: SELECTs that are compiled once and run on the driver's own cursor.

SQLAlchemy works longer around a lookup than a database does inside it: for each run it finds the compiled form
by a cache key, and builds a context, a result and its rows. Here that is done once for each statement; values and
rows pass through the types of `schema` as they do elsewhere. Reads outside of a transaction only: what fails here
is run again by SQLAlchemy, which tells a lost connection from a mistake. No listener sees these statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import BindParameter, Connection, Dialect, Select

    Convert = Callable[[Any], Any]


class Hot:
    """A SELECT that is run often. Thread-safe; it belongs to one database, whose dialect it is compiled for."""

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._compiled: _Compiled | None = None

    def rows(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows, as SQLAlchemy would give them but for their names. `connection` is in AUTOCOMMIT."""
        if self._compiled is None:
            self._compiled = _Compiled(self._statement, connection.dialect)
        compiled = self._compiled
        cursor = connection.connection.cursor()
        try:
            cursor.execute(compiled.sql, compiled.parameters(values))
            found = cursor.fetchall()
        except compiled.refused:
            return [tuple(row) for row in connection.execute(self._statement, values)]
        finally:
            cursor.close()
        return [compiled.row(row) for row in found]


class _Compiled:
    """A statement's text for one dialect, and how its values and the columns of its rows are converted."""

    def __init__(self, statement: Select[Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.refused: type[Exception] = dialect.loaded_dbapi.Error
        self._values = [
            (name, bind, bind.type.dialect_impl(dialect).bind_processor(dialect))
            for name, bind in compiled.binds.items()
        ]
        types = [column.type.dialect_impl(dialect) for column in statement.selected_columns]
        converted = enumerate(type_.result_processor(dialect, None) for type_ in types)
        self._columns = [(index, convert) for index, convert in converted if convert is not None]

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver is given: the values of this run, and the clock where it is read here."""
        return {name: _told(bind, convert, values) for name, bind, convert in self._values}

    def row(self, found: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row of the driver's, converted."""
        row = list(found)
        for index, convert in self._columns:
            row[index] = convert(row[index])
        return tuple(row)


def _told(bind: BindParameter[Any], convert: Convert | None, values: Mapping[str, Any]) -> Any:
    value = values.get(bind.key, bind.effective_value)
    return value if convert is None else convert(value)
