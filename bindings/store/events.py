"""The append-only history: every way to write an event, and the change feed.

An event is written in the transaction of the change it tells of: `recorded` makes the change and its event
one statement. No event carries a phone.

The feed's order is (tx, position). A reader sees only what lies below the oldest running transaction, so an
event that commits late is waited for and never skipped. `change_tx` of a binding never goes down, so that the
events of one binding keep their order even where a writer with an older transaction id came second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Text, cast, func, insert, literal, select, tuple_, update

from bindings.binding import Event, EventKind
from bindings.store.schema import Detail, bindings, events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select
    from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

    from bindings.binding import Caller
    from bindings.store.database import Transaction

WRITTEN = ("tx", "binding_id", "sequence", "kind", "at", "actor", "request_id", "detail")
SHOWN = (events.c.tx, events.c.position, *(events.c[name] for name in WRITTEN[1:]))


def this_tx(tx: Transaction) -> ColumnElement[int]:
    """The running transaction's number (0 on SQLite, whose one writer makes positions final in order)."""
    if not tx.postgres:
        return literal(0, BigInteger)
    return cast(cast(func.pg_current_xact_id(), Text), BigInteger)  # xid8 becomes a number through text only


def change_tx(tx: Transaction) -> ColumnElement[int]:
    """What a change of a binding writes into `change_tx`."""
    return func.greatest(bindings.c.change_tx, this_tx(tx)) if tx.postgres else this_tx(tx)


def rows_of(
    tx: Transaction,
    kind: EventKind,
    caller: Caller,
    detail: dict[str, Any],
    *,
    changed: tuple[ColumnElement[int], ColumnElement[str], ColumnElement[int]],
) -> Select[*tuple[Any, ...]]:
    """One event per changed binding, as a SELECT; `changed` names its change_tx, id and version."""
    return select(
        *changed,
        literal(kind.value),
        tx.now,
        literal(caller.actor),
        literal(caller.request_id, Text),
        literal(detail, Detail),
    )


def recorded(
    tx: Transaction,
    change: ReturningInsert[Any] | ReturningUpdate[Any],
    kind: EventKind,
    caller: Caller,
    detail: dict[str, Any],
) -> Sequence[Row[Any]]:
    """Run `change` (which returns change_tx, id and version among its columns) and write its event per row.

    One statement, hence one round trip, on PostgreSQL.
    """
    if not tx.postgres:
        rows = tx.connection.execute(change).all()
        for row in rows:
            _write(tx, kind, caller, detail, binding_id=row.id, sequence=row.version)
        return rows
    changed = change.cte("changed")
    rows_to_write = rows_of(
        tx, kind, caller, detail, changed=(changed.c.change_tx, changed.c.id, changed.c.version)
    )
    log = insert(events).from_select(WRITTEN, rows_to_write).cte("logged")
    return tx.connection.execute(select(changed).add_cte(log)).all()


def append(tx: Transaction, binding_id: str, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> bool:
    """Write an event that changes nothing of the binding but its count of events; False where there is none."""
    change = (
        update(bindings)
        .where(bindings.c.id == binding_id)
        .values(version=bindings.c.version + 1, change_tx=change_tx(tx))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return bool(recorded(tx, change, kind, caller, detail))


def append_unbound(tx: Transaction, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> None:
    """Write an event that belongs to no binding."""
    _write(tx, kind, caller, detail, binding_id=None, sequence=0)


def _write(
    tx: Transaction,
    kind: EventKind,
    caller: Caller,
    detail: dict[str, Any],
    *,
    binding_id: str | None,
    sequence: int,
) -> None:
    tx.connection.execute(
        insert(events).values(
            tx=this_tx(tx),
            binding_id=binding_id,
            sequence=sequence,
            kind=kind.value,
            at=tx.now,
            actor=caller.actor,
            request_id=caller.request_id,
            detail=detail,
        )
    )


def history(connection: Connection, binding_id: str) -> list[Event]:
    """The events of one binding, in order."""
    statement = select(*SHOWN).where(events.c.binding_id == binding_id).order_by(events.c.sequence)
    return [to_event(row) for row in connection.execute(statement)]


def feed(connection: Connection, *, after: tuple[int, int], limit: int) -> list[Event]:
    """The next events after the position `after`, in the order in which they became final."""
    statement = final(postgres=connection.dialect.name == "postgresql")
    rows = connection.execute(
        statement.where(tuple_(events.c.tx, events.c.position) > tuple_(*map(literal, after))).limit(limit)
    )
    return [to_event(row) for row in rows]


def final(*, postgres: bool) -> Select[*tuple[Any, ...]]:
    """Every event that no running transaction can still come before, in the feed's order."""
    statement = select(*SHOWN).order_by(events.c.tx, events.c.position)
    if not postgres:
        return statement
    oldest_running = cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text)
    return statement.where(events.c.tx < cast(oldest_running, BigInteger))


def to_event(row: Row[*tuple[Any, ...]]) -> Event:
    """An event from its row (the columns of `SHOWN`)."""
    tx, position, binding_id, sequence, kind, at, actor, request_id, detail = row
    return Event(
        cursor=f"{tx}-{position}",
        binding_id=binding_id,
        sequence=sequence,
        kind=EventKind(kind),
        at=at,
        actor=actor,
        request_id=request_id,
        detail=detail,
    )
