"""The list of bindings by filters, as the console shows it: pages, counts of values, and the export of a view.

A page and its counts read a limited number of bindings and say so, instead of making the reader wait for a search
of the whole history. Changes nothing; every call is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.domain.value_counts import sum_up
from bindings.store import binding_list
from bindings.store.binding_list import COUNTED, ROWS_READ
from bindings.validation import fields

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.domain.record_lines import RecordColumns
    from bindings.domain.search_filters import Order, SearchFilters
    from bindings.store.database import Database

MAX_READ = ROWS_READ  # bindings for a page, and for its counts


@dataclass(frozen=True, kw_only=True, slots=True)
class BindingListPage:
    """A page of bindings. `next_cursor` is None at the end; a page may be empty and not the last.

    `stopped_at` is the time, in the order of the list, up to which `MAX_READ` bindings were read without filling
    the page; None if the page is full or the last.
    """

    data: tuple[Binding, ...]
    next_cursor: str | None
    stopped_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueCounts:
    """How many bindings have each value, by filter; each filter's counts are of those that match all others.

    `stopped_at` is the time of the request of the oldest binding that was counted, if older ones were not.
    """

    by_filter: dict[str, dict[str, int]]
    stopped_at: datetime | None


class BindingList:
    """The list of the bindings of one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, filters: SearchFilters, *, order: Order, size: int, position: tuple[datetime, str] | None
    ) -> BindingListPage:
        """Return a page of the bindings that match every filter, from after a position of the order."""
        rows, end = self._database.read(
            binding_list.read_page, filters, self._database.now, order=order, after=position, limit=size + 1
        )
        if len(rows) > size:
            last = binding_list.position_of(rows[size - 1], order)
            return BindingListPage(
                data=tuple(rows[:size]), next_cursor=fields.position_after(*last), stopped_at=None
            )
        if end is None:
            return BindingListPage(data=tuple(rows), next_cursor=None, stopped_at=None)
        return BindingListPage(data=tuple(rows), next_cursor=fields.position_after(*end), stopped_at=end.at)

    def count_values(self, filters: SearchFilters, *, only_actor: str | None = None) -> ValueCounts:
        """Count the newest bindings by state, mode, application, pool, status and actor, at most `MAX_READ`.

        With `only_actor` those that this actor requested, and not by actor.
        """
        counts, end = self._database.read(
            binding_list.count_values, filters, self._database.now, only_actor=only_actor
        )
        counted = [name for name in COUNTED if only_actor is None or name != "actor"]
        chosen = {name: getattr(filters, name) for name in COUNTED}
        by_filter = {name: sum_up(name, counts, chosen) for name in counted}
        return ValueCounts(by_filter=by_filter, stopped_at=None if end is None else end.at)

    def count_requested(self, *, since: datetime | None, until: datetime | None) -> int:
        """Return how many bindings were requested in [since, until)."""
        return self._database.read(binding_list.count_requested, since=since, until=until)

    def export(
        self, filters: SearchFilters, *, order: Order, file_format: str
    ) -> Generator[RecordColumns, None, None]:
        """Stream every binding that matches, in this order, in batches and memory that does not grow.

        `LineEncoder.lines` takes each batch, if it encodes the `file_format`.
        """
        yield from self._database.stream(
            binding_list.export, filters, self._database.now, order=order, file_format=file_format
        )
