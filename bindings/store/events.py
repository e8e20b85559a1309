"""The append-only history: every way to write an event, and the change feed.

An event is written in the transaction of the change it tells of: `Recorded` makes the change and its event
one statement. No event carries a phone.

The feed's order is (tx, position). A reader sees only what lies below the oldest running transaction, so an
event that commits late is waited for and never skipped. `change_tx` of a binding never goes down, so that the
events of one binding keep their order even where a writer with an older transaction id came second.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    select,
    text,
    tuple_,
    update,
)

from bindings.domain.binding import Event, EventKind
from bindings.store.column_types import BindingId, Detail
from bindings.store.compiled import CompiledStatement
from bindings.store.schema import account, bindings, events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Insert, Row, Select
    from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

    from bindings.domain.binding import Caller
    from bindings.store.database import SqlDialect, Transaction

BEGINNING = "0-0"  # the cursor before the first event
STRETCH = 1_000
PARTITION_SPAN = 10**12  # positions of one partition on PostgreSQL (store/partitions)

INSERT_COLUMNS = ("tx", "binding_id", "sequence", "kind", "at", "actor", "request_id", "detail")
COLUMNS = (events.c.tx, events.c.position, *(events.c[name] for name in INSERT_COLUMNS[1:]))


def this_tx(dialect: SqlDialect) -> ColumnElement[int]:
    """The running transaction's number (0 on SQLite, whose one writer makes positions final in order)."""
    if not dialect.postgres:
        return literal_column("0", BigInteger)
    return cast(cast(func.pg_current_xact_id(), Text), BigInteger)  # xid8 becomes a number through text only


def change_tx(dialect: SqlDialect) -> ColumnElement[int]:
    """What a change of a binding writes into `change_tx`."""
    current = this_tx(dialect)
    return func.greatest(bindings.c.change_tx, current) if dialect.postgres else current


def event_select(
    dialect: SqlDialect, change_tx: Any, binding_id: Any, sequence: Any, **facts: ColumnElement[Any]
) -> Select[*tuple[Any, ...]]:
    """The columns `WRITTEN` of an event, as a SELECT whose parameters `said` fills.

    With `facts` the detail is what these columns hold, and not what is said: each row has its own. An instant
    stands there in ISO 8601, with its zone.
    """
    return select(
        change_tx,
        binding_id,
        sequence,
        bindparam("said_kind", type_=String),
        dialect.now,
        bindparam("said_actor", type_=String),
        bindparam("said_request_id", type_=String),
        _object(dialect, facts) if facts else bindparam("said_detail", type_=Detail),
    )


def _object(dialect: SqlDialect, facts: dict[str, ColumnElement[Any]]) -> ColumnElement[Any]:
    named = [each for name, column in facts.items() for each in (literal_column(f"'{name}'"), column)]
    return func.jsonb_build_object(*named) if dialect.postgres else func.json_object(*named)


def event_params(kind: EventKind, caller: Caller, detail: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `told`."""
    return {
        "said_kind": kind.value,
        "said_actor": caller.actor,
        "said_request_id": caller.request_id,
        "said_detail": detail,
    }


class ChangeWithEvents:
    """A change of bindings together with its events; built once, run often.

    `change` must return id, version and change_tx among its columns. On PostgreSQL it and the events are one
    statement, hence one round trip.
    """

    def __init__(self, dialect: SqlDialect, change: ReturningInsert[Any] | ReturningUpdate[Any]) -> None:
        self._change = change
        self._whole: CompiledStatement | None = None
        if dialect.postgres:
            changed = change.cte("changed")
            rows = event_select(dialect, changed.c.change_tx, changed.c.id, changed.c.version)
            log = insert(events).from_select(INSERT_COLUMNS, rows).cte("logged")
            self._whole = CompiledStatement(select(changed).add_cte(log))

    def run(
        self, tx: Transaction, kind: EventKind, caller: Caller, detail: dict[str, Any], **values: Any
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """The changed rows; their events are written."""
        event = event_params(kind, caller, detail)
        if self._whole is not None:
            return self._whole.fetch_all(tx.connection, values | event)
        rows = tx.connection.execute(self._change, values).all()
        for row in rows:
            of_row = {"said_binding_id": row.id, "said_sequence": row.version}
            tx.connection.execute(_single(tx.dialect), event | of_row)
        return rows


@cache
def _single(dialect: SqlDialect) -> Insert:
    row = event_select(
        dialect,
        this_tx(dialect),
        bindparam("said_binding_id", type_=BindingId),
        bindparam("said_sequence", type_=Integer),
    )
    return insert(events).from_select(INSERT_COLUMNS, row)


@cache
def _counted(dialect: SqlDialect) -> ChangeWithEvents:
    change = (
        update(bindings)
        .where(bindings.c.id == bindparam("of_id", type_=BindingId))
        .values(version=bindings.c.version + 1, change_tx=change_tx(dialect))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return ChangeWithEvents(dialect, change)


def append(tx: Transaction, binding_id: str, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> bool:
    """Write an event that changes nothing of the binding but its count of events; False where there is none."""
    return bool(_counted(tx.dialect).run(tx, kind, caller, detail, of_id=binding_id))


def append_without_binding(tx: Transaction, kind: EventKind, caller: Caller, detail: dict[str, Any]) -> None:
    """Write an event that belongs to no binding."""
    none = {"said_binding_id": None, "said_sequence": 0}
    tx.connection.execute(_single(tx.dialect), event_params(kind, caller, detail) | none)


def history(connection: Connection, binding_id: str) -> list[Event]:
    """The events of one binding, in order."""
    statement = select(*COLUMNS).where(events.c.binding_id == binding_id).order_by(events.c.sequence)
    return [to_event(row) for row in connection.execute(statement)]


def feed(connection: Connection, *, after: tuple[int, int], limit: int) -> list[Event]:
    """The next events after the position `after`, in the order in which they became final."""
    postgres = connection.dialect.name == "postgresql"
    statement = final_events(postgres=postgres).where(after_position(after, postgres=postgres))
    return [to_event(row) for row in connection.execute(statement.limit(limit))]


def after_position(after: tuple[Any, Any], *, postgres: bool) -> ColumnElement[bool]:
    """Whether an event comes after a position of the feed, (tx, position)."""
    if postgres:
        # Positions follow transactions, but for those side by side: never further apart than one partition.
        from_partition = after[1] // PARTITION_SPAN - 1
        return and_(
            tuple_(events.c.tx, events.c.position) > tuple_(*after),
            events.c.position >= from_partition * PARTITION_SPAN,
        )
    # tx is 0 throughout; SQLite would look up no more than that in the index, and step through all the rest.
    return and_(events.c.tx == after[0], events.c.position > after[1])


def retention_position(connection: Connection) -> tuple[int, int] | None:
    """The last position of the feed that retention has given up; None where it has given up none."""
    row = connection.execute(select(account.c.gone_tx, account.c.gone_position)).one_or_none()
    return None if row is None or row.gone_tx is None else (row.gone_tx, row.gone_position)


def is_ahead_of_database(connection: Connection, position: tuple[int, int]) -> bool:
    """Whether this database never was as far as a position of its feed: it was restored to an earlier moment."""
    if connection.dialect.name == "postgresql":
        next_tx = cast(func.pg_snapshot_xmax(func.pg_current_snapshot()), Text)
        return bool(position[0] >= connection.execute(select(cast(next_tx, BigInteger))).scalar_one())
    written = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")).scalar()
    return position[1] > (written or 0)


def feed_of(
    connection: Connection, actor: str, *, after: tuple[int, int], limit: int
) -> tuple[list[Event], str | None]:
    """The next events of bindings that `actor` asked for, and the cursor up to which the feed was read.

    At most `STRETCH` events are looked at, so that somebody with few bindings costs no more than others; None
    where there was nothing to look at.
    """
    postgres = connection.dialect.name == "postgresql"
    stretch = (
        final_events(postgres=postgres).where(after_position(after, postgres=postgres)).limit(STRETCH).subquery()
    )
    asked_by = select(bindings.c.actor).where(bindings.c.id == stretch.c.binding_id).scalar_subquery()
    rows = connection.execute(select(stretch, asked_by).order_by(stretch.c.tx, stretch.c.position)).all()
    found: list[Event] = []
    read = None
    for row in rows:
        read = f"{row.tx}-{row.position}"
        if row[-1] == actor:
            found.append(to_event(row[:-1]))
        if len(found) == limit:
            break
    return found, read


def feed_end(connection: Connection) -> str | None:
    """The cursor of the newest event that is final; None where there is none."""
    newest = final_events(postgres=connection.dialect.name == "postgresql").order_by(None)
    row = connection.execute(newest.order_by(events.c.tx.desc(), events.c.position.desc()).limit(1)).one_or_none()
    return None if row is None else to_event(row).cursor


def final_events(*, postgres: bool) -> Select[*tuple[Any, ...]]:
    """Every event that no running transaction can still come before, in the feed's order."""
    if not postgres:
        return committed_events()
    oldest_running = cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text)
    return committed_events().where(events.c.tx < cast(oldest_running, BigInteger))


def committed_events() -> Select[*tuple[Any, ...]]:
    """Every event that is committed, in the feed's order; one that commits later may still come before it."""
    return select(*COLUMNS).order_by(events.c.tx, events.c.position)


def parse_cursor(cursor: str) -> tuple[int, int]:
    """The position, (tx, position), that a cursor of the feed names."""
    tx, _, position = cursor.partition("-")
    return int(tx), int(position)


def to_event(row: Sequence[Any] | Row[*tuple[Any, ...]]) -> Event:
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
