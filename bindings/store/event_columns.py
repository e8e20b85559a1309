"""Events by column, for exports: no object is made for a row, as `events.to_event` makes one.

The statement reads every value in a form in which it can be written: an instant as text, and with an event its
texts, because no other statement can run while the rows are read ahead.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Text, case, cast, func, literal_column, select, type_coerce
from sqlalchemy.types import NullType

from bindings.domain.binding import Event, EventKind
from bindings.domain.record_lines import EventColumns, JsonColumn
from bindings.domain.serialization import field_names, instants_in_csv, stored_instants, stored_json
from bindings.sealing.encoding import TEXT_DIGEST
from bindings.sealing.findings import UNREADABLE
from bindings.store import sql, texts
from bindings.store.events import COLUMNS, committed_events, reference_in, unreadable
from bindings.store.schema import events
from bindings.store.schema import texts as texts_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

_NAMES = field_names(Event)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def export(connection: Connection, *, since: datetime | None, until: datetime | None) -> Iterator[EventColumns]:
    """Yield every event that happened in [since, until), in feed order, in batches: memory stays constant.

    `Busy`, which names the event, if one cannot be read.
    """
    postgres = sql.is_postgres(connection)
    columns = _stored_columns(postgres=postgres)
    statement = committed_events(since=since, until=until).with_only_columns(*columns.values())
    with connection.execute(statement) as result:  # also closed if the caller stops early
        for rows in sql.batches(connection, result):
            yield _to_event_columns(rows, columns, postgres=postgres)


@cache
def _stored_columns(*, postgres: bool) -> Mapping[str, ColumnElement[Any]]:
    """Return the columns to select, by name: the fields of an event, and the texts of one that may have some."""
    stored: dict[str, ColumnElement[Any]] = {column.key: type_coerce(column, NullType) for column in COLUMNS}
    stored["cursor"] = cast(events.c.tx, Text) + "-" + cast(events.c.position, Text)
    stored["detail"] = cast(events.c.detail, Text)
    has_digest: ColumnElement[Any]
    by_name: ColumnElement[Any]
    if postgres:
        stored["at"] = cast(events.c.at, Text)
        has_digest = func.jsonb_path_exists(events.c.detail, literal_column(f"'$.*.{TEXT_DIGEST}'"))
        by_name = cast(func.json_object_agg(texts_table.c.name, texts_table.c.text), Text)
    else:
        has_digest = func.instr(events.c.detail, TEXT_DIGEST) > 0
        by_name = func.json_group_object(texts_table.c.name, texts_table.c.text)
    of_event = select(by_name).where(texts_table.c.event_position == events.c.position).scalar_subquery()
    columns = {name: stored[name] for name in _NAMES}
    return columns | {"texts": case((has_digest, func.coalesce(of_event, "{}")))}


def _to_event_columns(rows: Sequence[Sequence[Any]], names: Iterable[str], *, postgres: bool) -> EventColumns:
    """Return events from their rows (the columns `_stored_columns`, with these names)."""
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    by_name = {name: columns[name] for name in _NAMES}
    try:
        if not postgres:  # SQLite stores any text
            for text in columns["detail"]:
                _OBJECT.decode(text)
        by_name["at"] = (instants_in_csv if postgres else stored_instants)(columns["at"])
        by_name["detail"] = JsonColumn(_details(columns["detail"], columns["texts"]))
        by_name["reference"] = _references(columns)
    except UNREADABLE:
        if len(rows) == 1:
            raise unreadable(columns["cursor"][0]) from None
        for row in rows:
            _to_event_columns([row], names, postgres=postgres)
        raise
    return EventColumns(by_name, len(rows))


def _details(stored: Sequence[str], texts_of_events: Sequence[str | None]) -> list[str]:
    """Return the details as `json.dumps` writes them, with their texts."""
    details = stored_json(stored)
    if texts_of_events.count(None) == len(texts_of_events):
        return details
    return [
        detail
        if texts_of_event is None
        else json.dumps(texts.fill_in(json.loads(detail), json.loads(texts_of_event)))
        for detail, texts_of_event in zip(details, texts_of_events, strict=True)
    ]


def _references(columns: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    """Return the references, those of refused binds also as an earlier version stored them."""
    references, kinds = columns["reference"], columns["kind"]
    if EventKind.REFUSED not in kinds:
        return references
    return [
        reference_in(json.loads(detail)) if reference is None and kind == EventKind.REFUSED else reference
        for reference, kind, detail in zip(references, kinds, columns["detail"], strict=True)
    ]
