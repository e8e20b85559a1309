"""The list of events, as exports write it. Changes nothing; every call is safe to repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.store import event_columns

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime

    from bindings.domain.record_lines import EventColumns
    from bindings.store.database import Database


class EventList:
    """The events of one database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def export(self, *, since: datetime | None, until: datetime | None) -> Generator[EventColumns, None, None]:
        """Stream every event of [since, until), in the feed's order, in batches and memory that does not grow.

        `LineEncoder.lines` takes each batch. Raises `Busy`, which names the event, if one cannot be read.
        """
        yield from self._database.stream(event_columns.export, since=since, until=until)
