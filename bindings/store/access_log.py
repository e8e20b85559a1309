"""Who was shown phones in full, and who took which list away: rows for the access log, newest first.

A reveal is an event of the append-only history. An export has a row of its own, written before its first line
leaves and completed after its last: one that was broken off stays without an end.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import literal_column, select, tuple_, update

from bindings.domain.binding import EventKind
from bindings.store.column_types import BindingId, Instant, Position
from bindings.store.events import COLUMNS, to_event
from bindings.store.schema import events, exports

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Caller, Event
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A list that was taken away, as its manifest has it; `row_count` and `sha256` are None until it is whole."""

    id: str
    began_at: datetime
    finished_at: datetime | None
    actor: str
    request_id: str | None
    view: str
    filter: dict[str, Any]
    format: str
    reason: str | None
    row_count: int | None
    sha256: str | None


_COLUMNS = tuple(exports.c[field.name] for field in fields(Export))


def start_export(tx: Transaction, export_id: str, caller: Caller, **given: Any) -> None:
    """Record that an export begins. Safe to repeat with the same id."""
    values = {"id": export_id, "began_at": tx.instant(), "actor": caller.actor, "request_id": caller.request_id}
    tx.connection.execute(
        tx.dialect.insert(exports).values(given | values).on_conflict_do_nothing(index_elements=["id"])
    )


def finish(tx: Transaction, export_id: str, *, row_count: int, sha256: str) -> None:
    """Record that the last line of an export has left. Safe to repeat: the first time stays."""
    values = {"finished_at": tx.instant(), "row_count": row_count, "sha256": sha256}
    tx.connection.execute(
        update(exports).where(exports.c.id == export_id, exports.c.finished_at.is_(None)).values(values)
    )


def find(connection: Connection, export_id: str) -> Export | None:
    """The export with this id."""
    row = connection.execute(select(*_COLUMNS).where(exports.c.id == export_id)).one_or_none()
    return None if row is None else Export(**row._mapping)  # noqa: SLF001 -- the row's public way


def list_exports(connection: Connection, *, before: tuple[datetime, str] | None, limit: int) -> list[Export]:
    """Up to `limit` exports, newest first, that come after the position `before`."""
    statement = select(*_COLUMNS).order_by(exports.c.began_at.desc(), exports.c.id.desc()).limit(limit)
    if before is not None:
        position = tuple_(exports.c.began_at, exports.c.id)
        statement = statement.where(position < tuple_(*before, types=(Instant(), BindingId())))
    return [Export(**row._mapping) for row in connection.execute(statement)]  # noqa: SLF001 -- the same


def list_reveals(connection: Connection, *, before: tuple[datetime, int] | None, limit: int) -> list[Event]:
    """Up to `limit` reveals, newest first, that come after the position `before`."""
    statement = select(*COLUMNS).where(events.c.kind == literal_column(f"'{EventKind.REVEALED}'"))
    statement = statement.order_by(events.c.at.desc(), events.c.position.desc()).limit(limit)
    if before is not None:
        position = tuple_(events.c.at, events.c.position)
        statement = statement.where(position < tuple_(*before, types=(Instant(), Position)))
    return [to_event(row) for row in connection.execute(statement)]
