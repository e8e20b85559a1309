"""Hot statements: compiled once, and run on the driver's own cursor.

SQLAlchemy works longer around a small statement than a database does inside it: for each run it finds the compiled
form by a cache key, and builds a context, a result and its rows. Here that is done once for each statement; values
and rows pass through the types of `schema` as they do elsewhere, and an error is handed to SQLAlchemy, which tells
a lost connection from a mistake. For lookups and for what a bind writes, and nothing else: no listener of
SQLAlchemy's sees these statements.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import BindParameter, CompoundSelect, Connection, Dialect, Select

    Convert = Callable[[Any], Any]


class CompiledStatement:
    """A SELECT that is run often, or a change that is read as one. Thread-safe."""

    def __init__(self, statement: Select[Any] | CompoundSelect[Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def fetch_all(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """The rows, as named tuples; the errors are those that SQLAlchemy would raise."""
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = self._compiled[connection.dialect.name] = _Compiled(self._statement, connection.dialect)
        parameters = compiled.parameters(values)
        cursor = None
        try:
            cursor = connection.connection.cursor()
            cursor.execute(compiled.sql, parameters, **compiled.how)
            found = cursor.fetchall()
        except compiled.refused as error:
            # It has no public name: it marks a lost connection, tells the listeners, and raises its own error.
            connection._handle_dbapi_exception(error, compiled.sql, parameters, cursor, None)  # noqa: SLF001
        cursor.close()
        return [compiled.row(row) for row in found]


class _Compiled:
    """A statement's text for one dialect, and how its values and the columns of its rows are converted."""

    def __init__(self, statement: Select[Any] | CompoundSelect[Any], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.refused: type[Exception] = dialect.loaded_dbapi.Error
        # Where the connection allows it (see `engine`), the server parses and plans it once.
        self.how = {"prepare": True} if dialect.name == "postgresql" else {}
        self._values = [
            (name, bind, bind.type.dialect_impl(dialect).bind_processor(dialect))
            for name, bind in compiled.binds.items()
        ]
        columns = list(statement.selected_columns)
        converts = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._columns = [(index, convert) for index, convert in enumerate(converts) if convert is not None]
        names = [str(column.key) for column in columns]
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 -- a name for each column
        self._row: Convert = row._make

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver is given: the values of this run, and the clock where it is read here."""
        return {name: _bind_value(bind, convert, values) for name, bind, convert in self._values}

    def row(self, found: tuple[Any, ...]) -> Any:
        """A row of the driver's, converted."""
        row = list(found)
        for index, convert in self._columns:
            row[index] = convert(row[index])
        return self._row(row)


def _bind_value(bind: BindParameter[Any], convert: Convert | None, values: Mapping[str, Any]) -> Any:
    value = values.get(bind.key, bind.effective_value)
    return value if convert is None else convert(value)
