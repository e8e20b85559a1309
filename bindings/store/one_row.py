"""Queries for one row: each runs alone, or many of them together as one statement.

A check, a metric or a tile of a page needs a few values. If each of them is a statement, a page of fifty pays for
fifty round trips and plans; together they are one prepared statement. Knows no table.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from sqlalchemy import select, true

from bindings.store import sql
from bindings.store.compiled import MOST_CLOCKS, CompiledStatement

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, FromClause, Select

Result = TypeVar("Result")


class OneRow(Generic[Result]):
    """A query that returns one row or none. `to_result` gets the columns of the row; without one, None for each.

    `build` returns the statement for the arguments of the query. With `by_dialect` it also gets `postgres`.
    """

    def __init__(
        self, build: Callable[..., Select[*tuple[Any, ...]]], to_result: Callable[..., Result], *, by_dialect: bool
    ) -> None:
        self.to_result = to_result
        self._build = build
        self._by_dialect = by_dialect

    def __call__(self, connection: Connection, *args: Any, **kwargs: Any) -> Result:
        """Run the query alone and return its result."""
        statement = self.statement(*args, **kwargs, postgres=sql.is_postgres(connection))
        row = connection.execute(statement).one_or_none()
        return self.to_result(*((None,) * len(statement.selected_columns) if row is None else row))

    def statement(self, *args: Any, postgres: bool, **kwargs: Any) -> Select[*tuple[Any, ...]]:
        """Return the statement for these arguments."""
        return self._build(*args, **kwargs, **({"postgres": postgres} if self._by_dialect else {}))


class Call(NamedTuple):
    """A query, an `OneRow` or any other, and its arguments."""

    query: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]


def call(query: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    """Return a query with its arguments, in any order of those with a name."""
    return Call(query, args, tuple(sorted(kwargs.items())))


def one_row(
    to_result: Callable[..., Result], *, by_dialect: bool = False
) -> Callable[[Callable[..., Select[*tuple[Any, ...]]]], OneRow[Result]]:
    """Return a decorator that makes an `OneRow` of the function that builds its statement."""
    return lambda build: OneRow(build, to_result, by_dialect=by_dialect)


def first_column(value: Any) -> Any:
    """Return the value of the only column: for `one_row`."""
    return value


def run_together(connection: Connection, calls: tuple[Call, ...]) -> dict[Call, Any]:
    """Run `OneRow` queries as one statement, and return the result of each."""
    statement, widths = _combined(calls, postgres=sql.is_postgres(connection))
    (row,) = statement.fetch_all(connection, {})
    values = iter(row)
    return {
        query_call: query_call.query.to_result(*(next(values) for _ in range(width)))
        for query_call, width in zip(calls, widths, strict=True)
    }


@lru_cache(maxsize=2 * MOST_CLOCKS)
def _combined(calls: tuple[Call, ...], *, postgres: bool) -> tuple[CompiledStatement, tuple[int, ...]]:
    """Return the statement with the row of each query, and how many columns each row has."""
    rows = [
        # With LIMIT a planner knows that there is one row, and does not expect the product of small tables.
        query.statement(*args, **dict(kwargs), postgres=postgres).limit(sql.literal_number(1)).subquery()
        for query, args, kwargs in calls
    ]
    all_rows: FromClause = select(sql.literal_number(1).label("row")).subquery()
    for row in rows:
        all_rows = all_rows.outerjoin(row, true())
    columns = [column for row in rows for column in row.c]
    statement = select(*(column.label(f"value_{number}") for number, column in enumerate(columns)))
    return CompiledStatement(statement.select_from(all_rows)), tuple(len(row.c) for row in rows)
