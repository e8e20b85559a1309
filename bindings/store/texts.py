"""The texts that a person or the provider wrote in the detail of an event, stored apart from it.

An event is never changed, and such a text may name a person. So the text has a row of its own, which may be
deleted. In the detail, under the name of the text, is `{"text_sha256": SHA-256(salt + text)}`: with the row it
proves the text, and without it it says nothing, because the salt is in the row.

A process of an older version would show that instead of the text. As long as one uses the database, the detail has
the text itself, as that version writes it; the statement that writes the event decides which.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, String, Text, bindparam, case, func, insert, literal, select

from bindings.domain.text import FreeFields, FreeText
from bindings.sealing.encoding import TEXT_DIGEST as DIGEST
from bindings.sealing.encoding import canonical
from bindings.store import replicas, sql
from bindings.store.column_types import Detail
from bindings.store.compiled import CompiledStatement
from bindings.store.schema import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import CTE, ColumnElement, Connection, Insert

    from bindings.domain.binding import Event
    from bindings.store.database import SqlDialect, Transaction

FIRST_REVISION = "0017"  # of code that reads texts
DELETED = "deleted"  # what is shown of a text whose row is gone
OF_FIELDS = ("filter", "filters")  # the names of texts that are stored of fields
DELETED_FIELDS = {DELETED: True}  # what is shown of fields whose row is gone
SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class DetachedText:
    """A text of an event, apart from its detail, which has only the digest."""

    name: str
    text: str
    salt: bytes
    detail: dict[str, Any]

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `inserted_with` and `detail`."""
        return {
            "event_detached_detail": self.detail,
            "text_name": self.name,
            "text_text": self.text,
            "text_salt": self.salt,
        }

    def row(self, event_position: int, binding_id: str | None) -> dict[str, Any]:
        """Return the row of the text for an event."""
        return {
            "event_position": event_position,
            "name": self.name,
            "binding_id": binding_id,
            "text": self.text,
            "salt": self.salt,
        }


def detach(detail: dict[str, Any]) -> DetachedText | None:
    """Return the first free text of a detail apart from it, or None if it has none.

    No event of a binding has more than one.
    """
    for name, value in detail.items():
        if isinstance(value, FreeText | FreeFields):
            salt, text = secrets.token_bytes(SALT_BYTES), text_of(value)
            return DetachedText(name, text, salt, detail | {name: {DIGEST: digest(salt, text)}})
    return None


def text_of(value: str | dict[str, Any]) -> str:
    """Return the text that is stored of a free text, or of fields."""
    return canonical(value).decode() if isinstance(value, dict) else str(value)


def digest(salt: bytes, text: str) -> str:
    """Return the digest of a text, as in the detail of its event."""
    return hashlib.sha256(salt + text.encode()).hexdigest()


def detach_if_read(tx: Transaction, detail: dict[str, Any]) -> list[DetachedText]:
    """Return the free texts of a detail apart from it; none if older code would have to read them.

    The detail of the last one has none of them.
    """
    texts_of_event: list[DetachedText] = []
    while (detached := detach(texts_of_event[-1].detail if texts_of_event else detail)) is not None:
        texts_of_event.append(detached)
    if texts_of_event and tx.connection.execute(select(_older_code(tx.dialect))).scalar_one():
        return []
    return texts_of_event


def detail(dialect: SqlDialect) -> ColumnElement[Any]:
    """Return the detail of an event with a free text: with the digest, or with the text for an older version."""
    whole, detached = (bindparam(name, type_=Detail) for name in ("event_detail", "event_detached_detail"))
    return case((_older_code(dialect), whole), else_=detached)


def _older_code(dialect: SqlDialect) -> ColumnElement[bool]:
    return replicas.is_older_at_work(dialect, FIRST_REVISION)


def inserted_with(logged: CTE) -> CTE:
    """Return the INSERT of the text of each logged event (PostgreSQL), unless its detail has the text itself."""
    name = bindparam("text_name", type_=String)
    text, salt = bindparam("text_text", type_=Text), bindparam("text_salt", type_=LargeBinary)
    is_detached_from = func.jsonb_typeof(logged.c.detail[name]) == literal("object")
    rows = select(logged.c.position, name, logged.c.binding_id, text, salt).where(is_detached_from)
    return insert(texts).from_select(_COLUMNS, rows).cte("texts_inserted")


_COLUMNS = ("event_position", "name", "binding_id", "text", "salt")
INSERT: Insert = insert(texts)


def with_texts(connection: Connection, events: Sequence[Event]) -> list[Event]:
    """Return the events with their texts, or `DELETED` where a text is deleted. No query if they have none."""
    positions = {_position(event) for event in events if any(map(_is_digest, event.detail.values()))}
    if not positions:
        return list(events)
    rows = _of_events(sql.is_postgres(connection)).fetch_all(connection, {"positions": sorted(positions)})
    stored: dict[int, dict[str, str]] = {position: {} for position in positions}
    for row in rows:
        stored[row.event_position][row.name] = row.text
    return [
        replace(event, detail=fill_in(event.detail, stored[_position(event)]))
        if _position(event) in positions
        else event
        for event in events
    ]


@cache
def _of_events(postgres: bool) -> CompiledStatement:
    """Build the statement for the texts of the events at :positions."""
    of_events = sql.is_in_list(texts.c.event_position, "positions", postgres=postgres)
    return CompiledStatement(select(texts.c.event_position, texts.c.name, texts.c.text).where(of_events))


def fill_in(detail: dict[str, Any], stored: Mapping[str, str]) -> dict[str, Any]:
    """Return a detail with its texts, which are stored by name, or `DELETED` where a text is deleted."""
    return {name: _value(name, stored.get(name)) if _is_digest(value) else value for name, value in detail.items()}


def _value(name: str, text: str | None) -> Any:
    if name in OF_FIELDS:
        return DELETED_FIELDS if text is None else json.loads(text)
    return DELETED if text is None else text


def _position(event: Event) -> int:
    return int(event.cursor.partition("-")[2])


def _is_digest(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {DIGEST}
