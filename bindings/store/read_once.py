"""The reads of a page with many statements about one state: each query is run once, most of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from sqlalchemy import select

from bindings.store.database import Database
from bindings.store.one_row import call, first_column, one_row, run_together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

    from bindings.store.one_row import Call
    from bindings.store.phone_keys import PhoneKeys

Params = ParamSpec("Params")
Result = TypeVar("Result")


@one_row(first_column)
def _read_clock(now: ColumnElement[datetime]) -> Select[Any]:
    return select(now)


class ReadOnce:
    """A database for one page. Each query with its arguments is run once, and the clock is read once.

    The first read of one of `combined_calls`, calls of `OneRow` queries, runs all of them as one statement. If
    that fails, each runs alone: one table that cannot be read leaves the others readable. Not thread-safe.
    """

    def __init__(self, database: Database, combined_calls: Iterable[Call]) -> None:
        self.database = database
        self.combined_calls = (call(_read_clock, database.now), *combined_calls)
        self._results: dict[Call, Any] = {}
        self._combined_calls_were_run = False

    @property
    def postgres(self) -> bool:
        """Return True for PostgreSQL, False for SQLite."""
        return self.database.postgres

    @property
    def missing_file(self) -> str | None:
        """Return the path at which the first connection would create an SQLite file, or None."""
        return self.database.missing_file

    @property
    def now(self) -> ColumnElement[datetime]:
        """Return the deciding clock, as SQL."""
        return self.database.now

    @property
    def phone_keys(self) -> PhoneKeys | None:
        """Return the keys of the phones."""
        return self.database.phone_keys

    def clock(self) -> datetime:
        """Return the reading of the deciding clock that the page goes by."""
        instant: datetime = self.read(_read_clock, self.database.now)
        return instant

    def read(
        self, query: Callable[Concatenate[Connection, Params], Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return `query(connection, *args, **kwargs)`, of its first run. Raises what `Database.read` raises."""
        query_call = call(query, *args, **kwargs)
        is_combined = query_call in self.combined_calls and not self._combined_calls_were_run
        if is_combined and query_call not in self._results:
            self._run_combined()
        if query_call not in self._results:
            self._results[query_call] = self.database.read(query, *args, **kwargs)
        result: Result = self._results[query_call]
        return result

    def _run_combined(self) -> None:
        self._combined_calls_were_run = True
        try:
            self._results |= self.database.read(run_together, self.combined_calls)
        except Exception:  # noqa: BLE001 -- each query says by itself why it cannot be run
            return


Reads: TypeAlias = Database | ReadOnce
