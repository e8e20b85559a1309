"""The append-only history: the functions that write events, and the change feed.

An event is written in the transaction of the change that it records: `ChangeWithEvents` makes both one statement.
No event contains a phone, nor a reference: `COLUMNS` reads that with it, because it may be erased. A text that a
person or the provider wrote is stored apart (`texts`), and is read with the page of events.

The order of the feed is (tx, position). A reader sees only events below the oldest running transaction, so an
event that commits late is waited for and never skipped. The number of a transaction is its id in the cluster plus
`account.tx_offset` (`cluster_move`). `change_tx` of a binding never decreases, so that the events of one binding
keep their order even if the second writer has the older transaction id.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    tuple_,
    update,
)

from bindings import telemetry
from bindings.domain.binding import Event, EventKind
from bindings.errors import Busy
from bindings.store import sql, texts
from bindings.store.column_types import BindingId, Detail
from bindings.store.compiled import CompiledStatement
from bindings.store.one_row import first_column, one_row
from bindings.store.schema import account, bindings, events, refusals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Insert, Row, Select
    from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

    from bindings.domain.acts import Act
    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction

BEGINNING = "0-0"  # the cursor before the first event
STRETCH = 1_000  # events that one read of `feed_of` looks at
PARTITION_SPAN = 10**12  # positions of one partition on PostgreSQL (store/partitions)

INSERT_COLUMNS = ("tx", "binding_id", "sequence", "kind", "at", "actor", "request_id", "detail", "key_id")
REFUSAL_ID = "refusal_id"  # in the detail of a refused bind that has a reference
# One probe of a primary key for each event: a planner cannot make a scan of it, as it could of a join.
REFERENCE = case(
    (
        events.c.kind == literal_column(f"'{EventKind.REFUSED}'"),
        select(refusals.c.reference)
        .where(refusals.c.id == cast(events.c.detail[REFUSAL_ID].as_string(), BindingId))
        .scalar_subquery(),
    ),
    else_=select(bindings.c.reference).where(bindings.c.id == events.c.binding_id).scalar_subquery(),
).label("reference")
COLUMNS = (events.c.tx, events.c.position, *(events.c[name] for name in INSERT_COLUMNS[1:]), REFERENCE)
TRACEPARENT = "traceparent"  # in the detail of an event that was written in a trace
WITHOUT_BINDING: dict[str, Any] = {"event_binding_id": None, "event_sequence": 0}
_DETAIL: ColumnElement[Any] = bindparam("event_detail", type_=Detail)
_KINDS: dict[str, str] = {kind.value: kind for kind in EventKind}


def this_tx(dialect: SqlDialect) -> ColumnElement[int]:
    """Return the running transaction's number (0 on SQLite, whose one writer makes positions final in order)."""
    if not dialect.postgres:
        return literal_column("0", BigInteger)
    return _number(func.pg_current_xact_id())


def oldest_running() -> ColumnElement[int]:
    """Return the number below which no running transaction can still write an event (PostgreSQL)."""
    return _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))


def next_tx() -> ColumnElement[int]:
    """Return the number of the next transaction (PostgreSQL)."""
    return _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))


def running_tx(connection: Connection) -> tuple[int, int]:
    """Return the number of the next transaction, and that of the oldest running one (PostgreSQL)."""
    row = connection.execute(select(next_tx(), oldest_running())).one()
    return row[0], row[1]


def _number(xid: ColumnElement[Any]) -> ColumnElement[int]:
    """Return the number of a transaction in the feed: its id, and what the clusters before have counted."""
    number = cast(cast(xid, Text), BigInteger)  # xid8 casts to a number only by way of text
    return number + func.coalesce(select(account.c.tx_offset).scalar_subquery(), literal_column("0"))


def change_tx(dialect: SqlDialect) -> ColumnElement[int]:
    """Return the value of `change_tx` that a change of a binding writes."""
    current = this_tx(dialect)
    return func.greatest(bindings.c.change_tx, current) if dialect.postgres else current


def event_select(
    dialect: SqlDialect,
    change_tx: Any,
    binding_id: Any,
    sequence: Any,
    *,
    detail: ColumnElement[Any] = _DETAIL,
    **facts: ColumnElement[Any],
) -> Select[*tuple[Any, ...]]:
    """Return a SELECT of the columns `INSERT_COLUMNS` of an event; its parameters are those of `event_params`.

    With `facts` the detail also has these columns of the row. An instant is ISO 8601 text in it, with a time zone.
    """
    return select(
        change_tx,
        binding_id,
        sequence,
        bindparam("event_kind", type_=String),
        dialect.now,
        bindparam("event_actor", type_=String),
        bindparam("event_request_id", type_=String),
        _with_facts(dialect, detail, facts),
        bindparam("event_key_id", type_=BindingId),
    )


def _with_facts(
    dialect: SqlDialect, detail: ColumnElement[Any], facts: dict[str, ColumnElement[Any]]
) -> ColumnElement[Any]:
    if not facts:
        return detail
    arguments = [part for name, column in facts.items() for part in (literal_column(f"'{name}'"), column)]
    if dialect.postgres:
        return detail.op("||")(func.jsonb_build_object(*arguments))
    return func.json_patch(detail, func.json_object(*arguments))


def with_trace(detail: dict[str, Any]) -> dict[str, Any]:
    """Return the detail of an event with the current `traceparent`, if there is one."""
    traceparent = telemetry.traceparent()
    return detail if traceparent is None else detail | {TRACEPARENT: traceparent}


def event_params(kind: EventKind, caller: Caller, detail: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `event_select`."""
    return {
        "event_kind": str(kind),
        "event_actor": caller.actor,
        "event_request_id": caller.request_id,
        "event_detail": detail,
        "event_key_id": caller.key_id,
    }


class ChangeWithEvents:
    """A change of bindings together with its events; built once, run often. `facts` are columns for the detail.

    `change` must return id, version, change_tx and the facts among its columns. `result` are the columns that
    `run` is to return, at least; None: all that `change` returns. On PostgreSQL the change, its events and their
    texts are one statement and so one round trip; on SQLite each is a statement of the same transaction.
    """

    def __init__(
        self,
        dialect: SqlDialect,
        change: ReturningInsert[Any] | ReturningUpdate[Any],
        *,
        facts: tuple[str, ...] = (),
        result: tuple[str, ...] | None = None,
    ) -> None:
        self._change = change
        self._facts = facts
        self._combined: CompiledStatement | None = None
        self._combined_with_texts: CompiledStatement | None = None
        if dialect.postgres:
            changed = change.cte("changed")
            event = changed.c.change_tx, changed.c.id, changed.c.version
            columns: dict[str, ColumnElement[Any]] = {name: changed.c[name] for name in facts}
            log = insert(events).from_select(INSERT_COLUMNS, event_select(dialect, *event, **columns))
            read = select(changed) if result is None else select(*(changed.c[name] for name in result))
            self._combined = CompiledStatement(read.add_cte(log.cte("logged")))
            rows = event_select(dialect, *event, detail=texts.detail(dialect), **columns)
            returned = (events.c.position, events.c.binding_id, events.c.detail)
            logged = insert(events).from_select(INSERT_COLUMNS, rows).returning(*returned).cte("logged")
            self._combined_with_texts = CompiledStatement(read.add_cte(texts.inserted_with(logged)))

    def run(
        self,
        tx: Transaction,
        kind: EventKind,
        caller: Caller,
        detail: dict[str, Any],
        values: Mapping[str, Any],
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """Change the rows, write an event for each, and return the changed rows.

        `values` are those of the parameters of the change.
        """
        detail = with_trace(detail)
        event = event_params(kind, caller, detail)
        if self._combined is not None and self._combined_with_texts is not None:
            detached = texts.detach(detail)
            if detached is None:
                return self._combined.fetch_all(tx.connection, {**values, **event})
            parameters = {**values, **event, **detached.parameters()}
            return self._combined_with_texts.fetch_all(tx.connection, parameters)
        rows = tx.connection.execute(self._change, values).all()
        for row in rows:
            row_params = {"event_binding_id": row.id, "event_sequence": row.version}
            row_facts = {name: sql.to_json_value(getattr(row, name)) for name in self._facts}
            _insert_event(tx, event | row_params, detail | row_facts)
        return rows


def _insert_event(tx: Transaction, event: dict[str, Any], detail: dict[str, Any]) -> None:
    """Insert one event, and the texts that it has."""
    detached = texts.detach_if_read(tx, detail)
    if not detached:
        tx.connection.execute(event_insert(tx.dialect), event | {"event_detail": detail})
        return
    logged = event_insert(tx.dialect).returning(events.c.position)
    position = tx.connection.execute(logged, event | {"event_detail": detached[-1].detail}).scalar_one()
    rows = [text_of_event.row(position, event["event_binding_id"]) for text_of_event in detached]
    tx.connection.execute(texts.INSERT, rows)


@cache
def event_insert(dialect: SqlDialect) -> Insert:
    """Return the INSERT of one event: `event_params` and its binding (or `WITHOUT_BINDING`) are its parameters."""
    return insert(events).from_select(INSERT_COLUMNS, event_row(dialect))


def event_row(dialect: SqlDialect) -> Select[*tuple[Any, ...]]:
    """Return the SELECT of the row that `event_insert` inserts, for one with a condition."""
    binding_id = bindparam("event_binding_id", type_=BindingId)
    return event_select(dialect, this_tx(dialect), binding_id, bindparam("event_sequence", type_=Integer))


@cache
def _version_increment(dialect: SqlDialect) -> ChangeWithEvents:
    change = (
        update(bindings)
        .where(bindings.c.id == bindparam("of_id", type_=BindingId))
        .values(version=bindings.c.version + 1, change_tx=change_tx(dialect))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return ChangeWithEvents(dialect, change)


def append(tx: Transaction, binding_id: str, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> bool:
    """Write an event that changes only the binding's count of events; return False if there is no such binding."""
    return bool(_version_increment(tx.dialect).run(tx, kind, caller, detail, {"of_id": binding_id}))


def append_without_binding(tx: Transaction, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> None:
    """Write an event that belongs to no binding."""
    detail = with_trace(detail)
    _insert_event(tx, event_params(kind, caller, detail) | WITHOUT_BINDING, detail)


def append_act(tx: Transaction, act: Act, caller: Caller, facts: Mapping[str, Any]) -> None:
    """Write the event of an administrative act with its facts, in the transaction of the change."""
    detail = {"act": act.value} | {name: sql.to_json_value(value) for name, value in facts.items()}
    append_without_binding(tx, EventKind.ADMINISTERED, caller, detail)


def history(connection: Connection, binding_id: str) -> list[Event]:
    """Return the events of one binding, in order."""
    statement = select(*COLUMNS).where(events.c.binding_id == binding_id).order_by(events.c.sequence)
    return read(connection, statement)


def traceparents(connection: Connection, binding_ids: Sequence[str]) -> dict[str, str]:
    """Return by id the `traceparent` in which each of these bindings was requested, if it was recorded."""
    first = select(events.c.binding_id, events.c.detail).where(
        events.c.binding_id.in_(binding_ids), events.c.sequence == 1
    )
    rows = connection.execute(first) if binding_ids else ()
    return {row.binding_id: row.detail[TRACEPARENT] for row in rows if TRACEPARENT in row.detail}


def read(connection: Connection, statement: Select[*tuple[Any, ...]]) -> list[Event]:
    """Return the events that a SELECT of `COLUMNS` finds, with their texts."""
    return from_rows(connection, connection.execute(statement))


def from_rows(connection: Connection, rows: Iterable[Sequence[Any] | Row[*tuple[Any, ...]]]) -> list[Event]:
    """Return the events of rows of `COLUMNS`, with their texts."""
    return texts.with_texts(connection, [to_event(row) for row in rows])


def feed(connection: Connection, *, after: tuple[int, int], limit: int) -> list[Event]:
    """Return the next events after the position `after`, in the order in which they became final."""
    postgres = sql.is_postgres(connection)
    statement = final_events(postgres=postgres).where(after_position(after, postgres=postgres))
    return read(connection, statement.limit(limit))


def after_position(after: tuple[Any, Any], *, postgres: bool) -> ColumnElement[bool]:
    """Return the condition that an event comes after a position of the feed, (tx, position)."""
    if postgres:
        # Positions are in the order of transactions, except for concurrent ones: never more than a partition
        # apart.
        from_partition = after[1] // PARTITION_SPAN - 1
        return and_(
            tuple_(events.c.tx, events.c.position) > tuple_(*after),
            events.c.position >= from_partition * PARTITION_SPAN,
        )
    # tx is always 0; by a comparison of tuples SQLite would look up only that in the index, and step through all.
    return and_(events.c.tx == after[0], events.c.position > after[1])


def retention_position(connection: Connection) -> tuple[int, int] | None:
    """Return the position up to which retention deletes the feed, or None if it has deleted nothing."""
    row = connection.execute(select(account.c.gone_tx, account.c.gone_position)).one_or_none()
    return None if row is None or row.gone_tx is None else (row.gone_tx, row.gone_position)


def is_ahead_of_database(connection: Connection, position: tuple[int, int]) -> bool:
    """Return True if this database never reached a position of its feed: it was restored to an earlier state."""
    if sql.is_postgres(connection):
        return bool(position[0] >= connection.execute(select(next_tx())).scalar_one())
    newest = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")).scalar()
    return position[1] > (newest or 0)


def feed_of(
    connection: Connection, actor: str, *, after: tuple[int, int], limit: int
) -> tuple[list[Event], str | None]:
    """Return the next events of bindings that `actor` requested, and the cursor up to which the feed was read.

    Reveals are left out, and `sequence` does not count them (`without_reveals`). At most `STRETCH` events are
    read, so that an actor with few bindings costs no more than others. The cursor is None if there was no event to
    read.
    """
    postgres = sql.is_postgres(connection)
    stretch = (
        final_events(postgres=postgres).where(after_position(after, postgres=postgres)).limit(STRETCH).subquery()
    )
    requested_by = select(bindings.c.actor).where(bindings.c.id == stretch.c.binding_id).scalar_subquery()
    rows = connection.execute(select(stretch, requested_by).order_by(stretch.c.tx, stretch.c.position)).all()
    own_events: list[Event] = []
    cursor = None
    for row in rows:
        cursor = f"{row.tx}-{row.position}"
        if row[-1] == actor and row.kind != EventKind.REVEALED:
            own_events.append(to_event(row[:-1]))
        if len(own_events) == limit:
            break
    return texts.with_texts(connection, without_reveals(connection, own_events)), cursor


def without_reveals(connection: Connection, page: Sequence[Event]) -> list[Event]:
    """Return the events other than reveals; their `sequence` counts as if there had been no reveals.

    So a gap does not tell that a binding was investigated. Safe to repeat: an event always gets the same number.
    """
    ids = {event.binding_id for event in page if event.sequence > 2}  # noqa: PLR2004 -- `requested` comes first
    reveals = select(events.c.binding_id, events.c.sequence).where(
        events.c.binding_id.in_(ids), is_kind(EventKind.REVEALED)
    )
    sequences: dict[str, list[int]] = {}
    for binding_id, sequence in connection.execute(reveals) if ids else ():
        sequences.setdefault(binding_id, []).append(sequence)
    return [
        replace(event, sequence=event.sequence - sum(number < event.sequence for number in hidden))
        for event in page
        for hidden in [sequences.get(str(event.binding_id), [])]
        if event.kind != EventKind.REVEALED
    ]


def feed_end(connection: Connection) -> str:
    """Return the cursor of the newest final event; if there is none, the first cursor that the feed accepts.

    Every event that is not final yet comes after it, also one whose transaction has already begun.
    """
    newest = final_events(postgres=sql.is_postgres(connection)).order_by(None)
    row = connection.execute(newest.order_by(events.c.tx.desc(), events.c.position.desc()).limit(1)).one_or_none()
    if row is not None:
        return to_event(row).cursor
    deleted_until = retention_position(connection)
    return BEGINNING if deleted_until is None else f"{deleted_until[0]}-{deleted_until[1]}"


def final_events(*, postgres: bool) -> Select[*tuple[Any, ...]]:
    """Return a SELECT of every final event (no running transaction can still write before it), in feed order."""
    if not postgres:
        return committed_events()
    return committed_events().where(events.c.tx < oldest_running())


@one_row(first_column, by_dialect=True)
def oldest_not_final(*, postgres: bool) -> Select[Any]:
    """Return when the oldest event was written that is not final yet; None if there is none."""
    if not postgres:
        return select(null())
    waiting = select(events.c.at).where(events.c.tx >= oldest_running())
    return waiting.order_by(events.c.tx, events.c.position).limit(1)


def committed_events(*, since: datetime | None = None, until: datetime | None = None) -> Select[*tuple[Any, ...]]:
    """Return a SELECT of every committed event of [since, until), in feed order.

    A later commit may still insert before the last.
    """
    statement = select(*COLUMNS).order_by(events.c.tx, events.c.position)
    if since is not None:
        statement = statement.where(events.c.at >= since)
    if until is not None:
        statement = statement.where(events.c.at < until)
    return statement


def parse_cursor(cursor: str) -> tuple[int, int]:
    """Return the position, (tx, position), of a cursor of the feed."""
    tx, _, position = cursor.partition("-")
    return int(tx), int(position)


def is_kind(kind: EventKind) -> ColumnElement[bool]:
    """Return the condition that an event is of this kind, as the partial indexes have it."""
    return sql.equals_literal(events.c.kind, kind)


def reference_in(detail: dict[str, Any]) -> Any:
    """Return the reference in the detail of a refused bind, where an earlier version wrote it; None without."""
    return detail.get("reference")


def unreadable(event_cursor: str) -> Busy:
    """Return the error of an export that meets an event with a value that cannot be read."""
    return Busy(
        f"event {event_cursor} has a value that cannot be read: it was changed; the export ends before it",
        todo="run `bindings audit verify` on the database, and see who can write to it",
    )


def to_event(row: Sequence[Any] | Row[*tuple[Any, ...]]) -> Event:
    """Return an event from its row (the columns `COLUMNS`)."""
    tx, position, binding_id, sequence, kind, at, actor, request_id, detail, key_id, reference = row
    if reference is None and kind == EventKind.REFUSED:
        reference = reference_in(detail)
    return Event(
        cursor=f"{tx}-{position}",
        binding_id=binding_id,
        sequence=sequence,
        kind=_KINDS.get(kind, kind),  # a later version may write further kinds
        at=at,
        actor=actor,
        request_id=request_id,
        detail=detail,
        reference=reference,
        key_id=key_id,
    )
