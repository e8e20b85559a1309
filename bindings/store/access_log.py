"""The rows of the access log: reveals of full phones, searches, acts and exports, newest first.

Reveals, searches by a phone and administrative acts are events of the append-only history. An export
has a row of its own, written before its first line is sent and completed after its last: an export that was
interrupted has no `finished_at`. Its start and its end are events too, with every fact of the row, so that the row
can be compared with the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select, text, update

from bindings.domain.binding import EventKind
from bindings.domain.text import optional_text
from bindings.store import sql
from bindings.store.events import COLUMNS, append_without_binding, is_kind, read
from bindings.store.schema import PHONE_SEARCHES, events, exports

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, TextClause

    from bindings.domain.binding import Caller, Event
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """One exported list, as in its manifest; `row_count` and `sha256` are None until the export is complete."""

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
    key_id: str | None


_COLUMNS = sql.columns(exports, Export)


def start_export(tx: Transaction, export_id: str, caller: Caller, **values: Any) -> None:
    """Record the start of an export; `values` are further columns. Safe to repeat with the same id."""
    began_at = tx.instant()
    origin = {"actor": caller.actor, "request_id": caller.request_id, "key_id": caller.key_id}
    row = values | origin | {"id": export_id, "began_at": began_at}
    insertion = tx.dialect.insert(exports).values(row).on_conflict_do_nothing(index_elements=["id"])
    if tx.connection.execute(insertion.returning(exports.c.id)).all():
        reason = optional_text(values["reason"])
        detail = {"export_id": export_id, "began_at": began_at.isoformat()} | values | {"reason": reason}
        append_without_binding(tx, EventKind.EXPORTED, caller, detail)


def finish(tx: Transaction, export_id: str, caller: Caller, *, row_count: int, sha256: str) -> None:
    """Record that the last line of an export was sent. Safe to repeat: the first call counts."""
    finished_at = tx.instant()
    values = {"row_count": row_count, "sha256": sha256}
    completion = update(exports).where(exports.c.id == export_id, exports.c.finished_at.is_(None))
    completion = completion.values(values | {"finished_at": finished_at})
    if tx.connection.execute(completion.returning(exports.c.id)).all():
        detail = {"export_id": export_id, "finished_at": finished_at.isoformat()} | values
        append_without_binding(tx, EventKind.EXPORTED, caller, detail)


def find(connection: Connection, export_id: str) -> Export | None:
    """Return the export with this id, or None."""
    row = connection.execute(select(*_COLUMNS).where(exports.c.id == export_id)).one_or_none()
    return None if row is None else sql.record(Export, row)


def list_exports(connection: Connection, *, before: tuple[datetime, str] | None, limit: int) -> list[Export]:
    """Return up to `limit` exports, newest first, from after the position `before` of that order."""
    statement = select(*_COLUMNS).order_by(exports.c.began_at.desc(), exports.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(sql.keyset_before((exports.c.began_at, exports.c.id), before))
    return [sql.record(Export, row) for row in connection.execute(statement)]


def list_events(connection: Connection, *, before: tuple[datetime, int] | None, limit: int) -> list[Event]:
    """Return up to `limit` reveals and acts, newest first, from after the position `before` of that order."""
    condition = or_(is_kind(EventKind.REVEALED), is_kind(EventKind.ADMINISTERED))
    return _list_events(connection, condition, before, limit)


def list_phone_searches(connection: Connection, *, before: tuple[datetime, int] | None, limit: int) -> list[Event]:
    """Return up to `limit` events of searches by a phone, newest first, from after the position `before`."""
    return _list_events(connection, text(PHONE_SEARCHES), before, limit)


def _list_events(
    connection: Connection,
    condition: ColumnElement[bool] | TextClause,
    before: tuple[datetime, int] | None,
    limit: int,
) -> list[Event]:
    statement = select(*COLUMNS).where(condition)
    statement = statement.order_by(events.c.at.desc(), events.c.position.desc()).limit(limit)
    if before is not None:
        statement = statement.where(sql.keyset_before((events.c.at, events.c.position), before))
    return read(connection, statement)
