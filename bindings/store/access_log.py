"""The rows of the access log: reveals of full phones, searches, acts and exports, newest first.

Reveals, searches by a phone and administrative acts are events of the append-only history. An export
has a row of its own, written before its first line is sent and completed after its last: an export that was
interrupted has no `finished_at`. Its start and its end are events too, with every fact of the row, so that the row
can be compared with the history.

A list is read in the order of its index. With a filter that the index does not have, only the next `STRETCH` rows
are looked at: so the cost of a page is limited, however rare the entries are that match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, exists, func, literal_column, not_, or_, select, text, update

from bindings.domain.access_log import SESSION_ACTS, AccessKind
from bindings.domain.binding import EventKind
from bindings.domain.text import FreeFields, optional_text
from bindings.domain.value_counts import ValueCount
from bindings.store import sql
from bindings.store.events import INSERT_COLUMNS, append_without_binding, is_kind, read
from bindings.store.schema import PHONE_SEARCHES, bindings, events, exports, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, FromClause, Select, TextClause

    from bindings.domain.access_log import AccessFilters
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
_EXPORT_ORDER = (exports.c.began_at, exports.c.id)
STRETCH = 2_000  # rows of one list that are looked at for one page


def start_export(
    tx: Transaction,
    export_id: str,
    caller: Caller,
    *,
    view: str,
    filters: Mapping[str, Any],
    row_format: str,
    reason: str | None,
) -> None:
    """Record the start of an export. Safe to repeat with the same id."""
    began_at = tx.instant()
    values = {"view": view, "filter": filters, "format": row_format, "reason": reason}
    origin = {"actor": caller.actor, "request_id": caller.request_id, "key_id": caller.key_id}
    row = values | origin | {"id": export_id, "began_at": began_at}
    insertion = tx.dialect.insert(exports).values(row).on_conflict_do_nothing(index_elements=["id"])
    if tx.connection.execute(insertion.returning(exports.c.id)).all():
        apart = {"reason": optional_text(reason), "filter": FreeFields(filters)}
        detail = {"export_id": export_id, "began_at": began_at.isoformat()} | values | apart
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


def list_exports(
    connection: Connection, filters: AccessFilters, *, before: tuple[datetime, str] | None, limit: int
) -> tuple[list[Export], tuple[datetime, str] | None]:
    """Return up to `limit` exports, newest first, from after the position `before` of that order.

    With them the position at which the reading stopped because a stretch was looked at; None if it did not.
    """
    rows = _newest(select(*_COLUMNS), _EXPORT_ORDER, filters, before)
    narrowing = _export_conditions(filters, postgres=sql.is_postgres(connection))
    if not narrowing:
        return [sql.record(Export, row) for row in connection.execute(rows.limit(limit))], None
    stretch = rows.limit(STRETCH).subquery("stretch")
    matches = select(stretch).where(*(meets(stretch.c) for meets in narrowing))
    matches = matches.order_by(stretch.c.began_at.desc(), stretch.c.id.desc()).limit(limit)
    matching = [sql.record(Export, row) for row in connection.execute(matches)]
    return matching, None if len(matching) == limit else _end_of_stretch(connection, _EXPORT_ORDER, rows)


def count_exports(connection: Connection, filters: AccessFilters) -> tuple[list[ValueCount], bool]:
    """Count the newest `STRETCH` exports by kind and actor. Return also whether these are all."""
    rows = _newest(select(*_COLUMNS), _EXPORT_ORDER, filters, None)
    stretch = rows.limit(STRETCH).subquery("stretch")
    kind: ColumnElement[str] = case(
        (stretch.c.reason.is_(None), literal_column(f"'{AccessKind.EXPORT_MASKED}'")),
        else_=literal_column(f"'{AccessKind.EXPORT_IN_FULL}'"),
    )
    narrowing = _export_conditions(filters, postgres=sql.is_postgres(connection))
    counts = _count(connection, stretch, kind, narrowing)
    return counts, _end_of_stretch(connection, _EXPORT_ORDER, rows) is None


def _export_conditions(filters: AccessFilters, *, postgres: bool) -> list[Callable[[Any], ColumnElement[bool]]]:
    """Return the conditions of those filters that no index has, for the columns of a row."""
    conditions: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        "actor": lambda row: row.actor == filters.actor,
        "key_id": lambda row: row.key_id == filters.key_id,
        "binding_id": lambda row: row.filter["binding_id"].as_string() == filters.binding_id,
        "reason_prefix": lambda row: sql.starts_with(row.reason, str(filters.reason_prefix), postgres=postgres),
        "kind": lambda row: (
            row.reason.is_not(None) if filters.kind is AccessKind.EXPORT_IN_FULL else row.reason.is_(None)
        ),
    }
    return [condition for name, condition in conditions.items() if getattr(filters, name) is not None]


def list_events(
    connection: Connection, filters: AccessFilters, *, before: tuple[datetime, int] | None, limit: int
) -> tuple[list[Event], tuple[datetime, int] | None]:
    """Return up to `limit` reveals and acts, newest first, as `list_exports` does with exports."""
    if filters.binding_id is not None:
        narrowing = _event_conditions(filters, postgres=sql.is_postgres(connection))
        return _read_events(connection, _reveals_of_binding(filters, before), narrowing, limit), None
    return _list_events(connection, _REVEALS_AND_ACTS, filters, before, limit)


def count_events(connection: Connection, filters: AccessFilters) -> tuple[list[ValueCount], bool]:
    """Count the newest `STRETCH` reveals and acts, as `count_exports` does; all reveals of a binding."""
    postgres = sql.is_postgres(connection)
    if filters.binding_id is not None:
        rows, is_whole = _reveals_of_binding(filters, None), True
    else:
        newest = _newest(select(*_EVENT_COLUMNS).where(_REVEALS_AND_ACTS), _EVENT_ORDER, filters, None)
        rows, is_whole = (
            newest.limit(STRETCH).subquery("stretch"),
            _end_of_stretch(connection, _EVENT_ORDER, newest) is None,
        )
    kinds = (AccessKind.REVEAL, AccessKind.SESSION)
    kind: ColumnElement[str] = case(
        *((_is_of_kind(rows.c, kind, postgres=postgres), literal_column(f"'{kind}'")) for kind in kinds),
        else_=literal_column(f"'{AccessKind.ACT}'"),
    )
    return _count(connection, rows, kind, _event_conditions(filters, postgres=postgres)), is_whole


def count_phone_searches(connection: Connection, filters: AccessFilters) -> tuple[list[ValueCount], bool]:
    """Count the newest `STRETCH` events of searches by a phone, as `count_exports` does."""
    newest = _newest(select(*_EVENT_COLUMNS).where(text(PHONE_SEARCHES)), _EVENT_ORDER, filters, None)
    narrowing = _event_conditions(filters, postgres=sql.is_postgres(connection))
    kind: ColumnElement[str] = literal_column(f"'{AccessKind.PHONE_SEARCH}'")
    counts = _count(connection, newest.limit(STRETCH).subquery("stretch"), kind, narrowing)
    return counts, _end_of_stretch(connection, _EVENT_ORDER, newest) is None


def _count(
    connection: Connection,
    rows: FromClause,
    kind: ColumnElement[Any],
    narrowing: list[Callable[[Any], ColumnElement[bool]]],
) -> list[ValueCount]:
    """Count the rows that meet the conditions by kind and actor."""
    matches = select(kind.label("kind"), rows.c.actor).where(*(meets(rows.c) for meets in narrowing)).subquery()
    statement = select(*matches.c, func.count()).group_by(*matches.c)
    return [ValueCount({"kind": row[0], "actor": row[1]}, row[2]) for row in connection.execute(statement)]


def list_phone_searches(
    connection: Connection, filters: AccessFilters, *, before: tuple[datetime, int] | None, limit: int
) -> tuple[list[Event], tuple[datetime, int] | None]:
    """Return up to `limit` events of searches by a phone, newest first, as `list_exports` does with exports."""
    return _list_events(connection, text(PHONE_SEARCHES), filters, before, limit)


_EVENT_COLUMNS = (events.c.tx, events.c.position, *(events.c[name] for name in INSERT_COLUMNS[1:]))
_EVENT_ORDER = (events.c.at, events.c.position)
_REVEALS_AND_ACTS = or_(is_kind(EventKind.REVEALED), is_kind(EventKind.ADMINISTERED))


def _list_events(
    connection: Connection,
    condition: ColumnElement[bool] | TextClause,
    filters: AccessFilters,
    before: tuple[datetime, int] | None,
    limit: int,
) -> tuple[list[Event], tuple[datetime, int] | None]:
    rows = _newest(select(*_EVENT_COLUMNS).where(condition), _EVENT_ORDER, filters, before)
    narrowing = _event_conditions(filters, postgres=sql.is_postgres(connection))
    stretch = rows.limit(STRETCH if narrowing else limit).subquery("stretch")
    matching = _read_events(connection, stretch, narrowing, limit)
    if not narrowing or len(matching) == limit:
        return matching, None
    return matching, _end_of_stretch(connection, _EVENT_ORDER, rows)


def _reveals_of_binding(filters: AccessFilters, before: tuple[datetime, int] | None) -> FromClause:
    """Return the reveals of one binding after a place of the order: its events are read by its id, all of them."""
    of_binding = select(*_EVENT_COLUMNS).where(events.c.binding_id == filters.binding_id)
    history = of_binding.cte("of_binding").prefix_with("MATERIALIZED")
    is_reveal = sql.equals_literal(history.c.kind, EventKind.REVEALED)
    rows = select(history).where(is_reveal, *_period(history.c.at, filters))
    if before is not None:
        rows = rows.where(sql.keyset_before((history.c.at, history.c.position), before))
    return rows.subquery("reveals")


def _read_events(
    connection: Connection, rows: FromClause, narrowing: list[Callable[[Any], ColumnElement[bool]]], limit: int
) -> list[Event]:
    """Return up to `limit` events of `rows` that meet the conditions, newest first, with their references."""
    reference = select(bindings.c.reference).where(bindings.c.id == rows.c.binding_id).scalar_subquery()
    matches = select(*rows.c, reference.label("reference")).where(*(meets(rows.c) for meets in narrowing))
    return read(connection, matches.order_by(rows.c.at.desc(), rows.c.position.desc()).limit(limit))


def _event_conditions(filters: AccessFilters, *, postgres: bool) -> list[Callable[[Any], ColumnElement[bool]]]:
    """Return the conditions of those filters that no index has, for the columns of a row."""
    conditions: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        "actor": lambda row: row.actor == filters.actor,
        "key_id": lambda row: row.key_id == filters.key_id,
        "reason_prefix": lambda row: _has_reason(row, str(filters.reason_prefix), postgres=postgres),
        "kind": lambda row: _is_of_kind(row, filters.kind, postgres=postgres),
    }
    names = [name for name in conditions if getattr(filters, name) is not None]
    return [conditions[name] for name in names if (name, filters.kind) != ("kind", AccessKind.PHONE_SEARCH)]


def _has_reason(row: Any, prefix: str, *, postgres: bool) -> ColumnElement[bool]:
    """Return whether the reason begins with `prefix`: in the detail of older events, apart from it in others."""
    in_detail = sql.starts_with(row.detail["reason"].as_string(), prefix, postgres=postgres)
    of_event = and_(texts.c.event_position == row.position, texts.c.name == "reason")
    return or_(in_detail, exists().where(of_event, sql.starts_with(texts.c.text, prefix, postgres=postgres)))


def _is_of_kind(row: Any, kind: AccessKind | None, *, postgres: bool) -> ColumnElement[bool]:
    if kind is AccessKind.REVEAL:
        return sql.equals_literal(row.kind, EventKind.REVEALED)
    of_session = sql.starts_with(row.detail["act"].as_string(), SESSION_ACTS, postgres=postgres)
    is_act = sql.equals_literal(row.kind, EventKind.ADMINISTERED)
    return and_(is_act, of_session if kind is AccessKind.SESSION else not_(of_session))


def _newest(
    rows: Select[Any],
    order: tuple[ColumnElement[Any], ColumnElement[Any]],
    filters: AccessFilters,
    before: tuple[datetime, Any] | None,
) -> Select[Any]:
    """Return the rows of the period after the position `before`, newest first."""
    rows = rows.where(*_period(order[0], filters)).order_by(*(column.desc() for column in order))
    return rows if before is None else rows.where(sql.keyset_before(order, before))


def _period(at: ColumnElement[datetime], filters: AccessFilters) -> list[ColumnElement[bool]]:
    since = [] if filters.since is None else [at >= filters.since]
    return since if filters.until is None else [*since, at < filters.until]


def _end_of_stretch(
    connection: Connection, order: tuple[ColumnElement[Any], ColumnElement[Any]], rows: Select[Any]
) -> tuple[datetime, Any] | None:
    """Return the position of the last row of the stretch, or None if the list ends within it."""
    last = connection.execute(rows.with_only_columns(*order).offset(STRETCH - 1).limit(1)).one_or_none()
    return None if last is None else (last[0], last[1])
