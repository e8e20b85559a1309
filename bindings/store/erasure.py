"""Erasure of one phone from the rows that have it, and the reads that an erasure and an access request need.

An erased side of a binding has a random text in place of the phone, another one in each row, so that the rows of
one person no longer belong together. What else may name the person goes: the reference, keys and the request id of
the binding, and the texts of its events. The binding stays, with the other party, and so do its events: a further
event records the erasure (I5, I7). Each function is one batch, and safe to repeat.

Only the owner of the tables may do this: what was asked for is changed (`account.rewrites_allowed`).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, bindparam, case, delete, func, null, or_, select, union, update

from bindings.domain.binding import EventKind, State
from bindings.domain.phone import ERASED_MARK
from bindings.sealing.encoding import canonical
from bindings.store import account, events, phones, reserve
from bindings.store.bindings import idempotency_key, in_state, release_owed, version_columns
from bindings.store.column_types import BindingId
from bindings.store.schema import account as account_table
from bindings.store.schema import bindings, exports, holds, refusals, searches, tallies, texts
from bindings.store.schema import events as events_table
from bindings.store.texts import DELETED, DELETED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

    from bindings.domain.binding import Caller
    from bindings.domain.phone import Phone
    from bindings.store.database import SqlDialect, Transaction

PAIR = ("phone_a", "phone_b")
TOKEN_LENGTH = 22  # characters of base64, 132 random bits
_SIDES = {"a": bindings.c.phone_a, "b": bindings.c.phone_b}
_NAMES = (
    *(bindings.c.id, bindings.c.reference, bindings.c.request_id),
    func.coalesce(idempotency_key, bindings.c.freed_key).label("key"),
)
_BLANK = ("fingerprint", "reference", "idempotency_key", "duplicate_key", "freed_key", "request_id", "facts_salt")


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenHolder:
    """What still holds the phone: a binding (`binding_id`), or a hold (None). `state` is that of the binding."""

    binding_id: str | None
    state: State | None
    actor: str | None
    cause: str
    held_until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasedBatch:
    """What one batch erased; `references` are those of its bindings and refused binds, `names` also their ids."""

    bindings: int = 0
    texts: int = 0
    refusals: int = 0
    references: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def open_holders(
    connection: Connection, phone: Phone, now: datetime, *, until: datetime | None
) -> list[OpenHolder]:
    """Return what still holds the phone: bindings that are open, held or owed a release, and holds in force.

    With `until` only bindings that were requested, and holds that were created, up to then.
    """
    is_open = or_(
        bindings.c.ended_at.is_(None),
        and_(bindings.c.held_until > now, ~in_state(State.FAILED)),
        release_owed(now),
    )
    forms = phones.forms(connection.dialect, phone)
    columns = bindings.c.id, bindings.c.state, bindings.c.actor, bindings.c.held_until
    branches = (
        select(*columns).where(phones.is_any_of(column, forms), is_open, *_up_to(bindings.c.requested_at, until))
        for column in _SIDES.values()
    )
    rows = connection.execute(union(*branches)).all()
    held = phones.is_any_of(holds.c.phone, forms), holds.c.held_until > now
    in_force = select(holds.c.why, holds.c.held_until).where(*held)
    of_holds = connection.execute(in_force.where(*_up_to(holds.c.created_at, until))).all()
    return [
        OpenHolder(
            binding_id=row.id, state=State(row.state), actor=row.actor, cause="binding", held_until=row.held_until
        )
        for row in rows
    ] + [
        OpenHolder(binding_id=None, state=None, actor=None, cause=row.why, held_until=row.held_until)
        for row in of_holds
    ]


def _of_phone(connection: Connection, phone: Phone, *columns: ColumnElement[Any]) -> ColumnElement[bool]:
    forms = phones.forms(connection.dialect, phone)
    return or_(*(phones.is_any_of(column, forms) for column in columns))


def _up_to(column: ColumnElement[Any], until: datetime | None) -> tuple[ColumnElement[bool], ...]:
    return () if until is None else (column <= until,)


def lock(tx: Transaction, scope: str, phone: Phone) -> datetime:
    """Wait for the lock of the phone, which a bind takes too, and return the clock's reading."""
    now, _ = reserve.lock_phones(tx, scope, (phone,), ())
    return now


def erase_bindings(
    tx: Transaction,
    phone: Phone,
    caller: Caller,
    *,
    ticket: str | None,
    until: datetime | None,
    limit: int,
) -> ErasedBatch:
    """Erase the phone from up to `limit` bindings that have ended, with an `erased` event for each."""
    forms = phones.forms(tx.connection.dialect, phone)
    chosen: list[tuple[str, Any]] = []
    for side, column in _SIDES.items():
        statement = select(*_NAMES).where(
            phones.is_any_of(column, forms),
            bindings.c.ended_at.is_not(None),
            *_up_to(bindings.c.requested_at, until),
        )
        chosen += [(side, row) for row in tx.connection.execute(statement.limit(limit - len(chosen)))]
    ids = [row.id for _, row in chosen]
    if not ids:
        return ErasedBatch()
    deleted = tx.connection.execute(delete(texts).where(texts.c.binding_id.in_(ids))).rowcount
    with account.rewrites_allowed(tx):
        for side, row in chosen:
            detail = {"side": side, "ticket": ticket}
            values = {"of_id": row.id, "token": _token()}
            _erasing(tx.dialect, side).run(tx, EventKind.ERASED, caller, detail, values)
    references = tuple(row.reference for _, row in chosen if row.reference is not None)
    names = tuple(name for _, row in chosen for name in row if name is not None)
    return ErasedBatch(bindings=len(ids), texts=deleted, references=references, names=names)


def _token() -> str:
    return ERASED_MARK + secrets.token_urlsafe(TOKEN_LENGTH)[:TOKEN_LENGTH]


@cache
def _erasing(dialect: SqlDialect, side: str) -> events.ChangeWithEvents:
    values: dict[str, Any] = {f"phone_{side}": bindparam("token", type_=String), f"phone_{side}_sealed": null()}
    values |= dict.fromkeys(_BLANK, null()) | version_columns(dialect)
    change = (
        update(bindings)
        .where(bindings.c.id == bindparam("of_id", type_=BindingId), bindings.c.ended_at.is_not(None))
        .values(values)
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, change)


def erase_refusals(tx: Transaction, phone: Phone, *, until: datetime | None, limit: int) -> ErasedBatch:
    """Delete up to `limit` refused binds of the phone."""
    forms = phones.forms(tx.connection.dialect, phone)
    ids = (
        select(refusals.c.id).where(phones.is_any_of(column, forms), *_up_to(refusals.c.at, until)).limit(limit)
        for column in (refusals.c.phone_a, refusals.c.phone_b)
    )
    chosen = [identity for statement in ids for identity in tx.connection.execute(statement).scalars()]
    deletion = delete(refusals).where(refusals.c.id.in_(chosen)).returning(refusals.c.reference)
    references = tx.connection.execute(deletion).scalars().all() if chosen else ()
    names = tuple(name for name in references if name is not None)
    return ErasedBatch(refusals=len(references), references=names, names=names)


def erase_holds(tx: Transaction, phone: Phone, now: datetime, *, until: datetime | None) -> list[str]:
    """Delete the holds of the phone that have ended, and return their ids."""
    of_phone = phones.is_any_of(holds.c.phone, phones.forms(tx.connection.dialect, phone))
    ended = of_phone, holds.c.held_until <= now, *_up_to(holds.c.created_at, until)
    return list(tx.connection.execute(delete(holds).where(*ended).returning(holds.c.id)).scalars())


def erase_searches(tx: Transaction, phone: Phone, references: Sequence[str]) -> int:
    """Delete the searches of the console for the phone or for one of these references; return how many."""
    of_phone = _of_phone(tx.connection, phone, searches.c.number, searches.c.party)
    return tx.connection.execute(delete(searches).where(or_(of_phone, searches.c.words.in_(references)))).rowcount


def erase_texts_that_name(
    tx: Transaction,
    phone: Phone,
    names: Sequence[str],
    caller: Caller,
    *,
    ticket: str | None,
    until: datetime | None,
) -> int:
    """Delete the texts without a binding that name the phone, also masked, or one of `names`; return how many.

    They are the reasons and filters of exports, and those of reveals. An `erased` event has their positions.
    """
    positions = _events_that_name(tx.connection, phone, names, until=until)
    if not positions:
        return 0
    deleted = tx.connection.execute(delete(texts).where(_WITHOUT_BINDING, texts.c.event_position.in_(positions)))
    of_exports = select(events_table.c.detail).where(
        events_table.c.position.in_(positions), events_table.c.kind == EventKind.EXPORTED
    )
    ids = [detail["export_id"] for detail in tx.connection.execute(of_exports).scalars()]
    blank = {"filter": DELETED_FIELDS, "reason": case((exports.c.reason.is_not(None), DELETED))}
    with account.rewrites_allowed(tx):
        tx.connection.execute(update(exports).where(exports.c.id.in_(ids)).values(blank))
    detail = {"ticket": ticket, "text_positions": positions}
    events.append_without_binding(tx, EventKind.ERASED, caller, detail)
    return deleted.rowcount


_WITHOUT_BINDING = texts.c.binding_id.is_(None)


def _events_that_name(
    connection: Connection, phone: Phone, names: Sequence[str], *, until: datetime | None
) -> list[int]:
    """Return the positions of the events without a binding that have a text with one of these words.

    Reads every such text.
    """
    words = {phone.digits, str(phone), *names}
    words |= {canonical(word).decode()[1:-1] for word in words}  # as in a filter
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")
    is_of_event = events_table.c.position == texts.c.event_position
    statement = (
        select(texts.c.event_position, texts.c.text).join(events_table, is_of_event).where(_WITHOUT_BINDING)
    )
    rows = connection.execute(statement.where(*_up_to(events_table.c.at, until)))
    return sorted({row.event_position for row in rows if pattern.search(row.text)})


def erase_examples(tx: Transaction) -> None:
    """Delete the references in the examples of refused binds that an earlier version counted."""
    rows = select(tallies).where(tallies.c.kind == EventKind.REFUSED)
    for row in tx.connection.execute(rows).all():
        if any("reference" in example for example in row.examples):
            examples = [
                {name: example[name] for name in example if name != "reference"} for example in row.examples
            ]
            of_row = (tallies.c[name] == getattr(row, name) for name in ("period_s", "began_at", "kind", "code"))
            tx.connection.execute(update(tallies).where(*of_row).values(examples=examples))


def record_end(tx: Transaction, caller: Caller, detail: dict[str, Any]) -> None:
    """Record that an erasure is complete: an event that belongs to no binding."""
    events.append_without_binding(tx, EventKind.ERASED, caller, detail)


def is_complete(connection: Connection, erasure_id: str) -> bool:
    """Return whether this database has carried out an erasure to its end."""
    statement = select(events_table.c.position).where(
        events_table.c.request_id == erasure_id,
        events_table.c.kind == EventKind.ERASED,
        events_table.c.binding_id.is_(None),
        events_table.c.detail["bindings"].as_string().is_not(None),  # which the event of its end has
    )
    return connection.execute(statement.limit(1)).first() is not None


def kept_from(connection: Connection) -> datetime | None:
    """Return the instant before which retention may have deleted the events of an erasure, or None."""
    instant: datetime | None = connection.execute(select(account_table.c.kept_from)).scalar()
    return instant


def count(connection: Connection, phone: Phone, now: datetime, *, until: datetime | None) -> dict[str, int]:
    """Return how many rows of each table an erasure would change or delete."""
    of_binding = _of_phone(connection, phone, *_SIDES.values()), bindings.c.ended_at.is_not(None)
    ended = (*of_binding, *_up_to(bindings.c.requested_at, until))
    ids = select(bindings.c.id).where(*ended)
    conditions: dict[str, Any] = {
        "bindings": (bindings, ended),
        "texts": (texts, [texts.c.binding_id.in_(ids)]),
        "refusals": (
            refusals,
            [_of_phone(connection, phone, refusals.c.phone_a, refusals.c.phone_b), *_up_to(refusals.c.at, until)],
        ),
        "holds": (
            holds,
            [
                _of_phone(connection, phone, holds.c.phone),
                holds.c.held_until <= now,
                *_up_to(holds.c.created_at, until),
            ],
        ),
        "searches": (searches, [_of_phone(connection, phone, searches.c.number, searches.c.party)]),
    }
    counts = {
        name: connection.execute(select(func.count()).select_from(table).where(*condition)).scalar_one()
        for name, (table, condition) in conditions.items()
    }
    of_bindings = connection.execute(select(*_NAMES).where(*ended))
    of_refusals = connection.execute(select(refusals.c.reference).where(*conditions["refusals"][1]))
    names = [name for rows in (of_bindings, of_refusals) for row in rows for name in row if name is not None]
    positions = _events_that_name(connection, phone, names, until=until)
    apart = select(func.count()).where(_WITHOUT_BINDING, texts.c.event_position.in_(positions))
    return counts | {"texts": counts["texts"] + connection.execute(apart).scalar_one()}


def count_old_events(connection: Connection, phone: Phone, *, until: datetime | None) -> int:
    """Return how many events of the phone's ended bindings have a text or a reference in themselves.

    Versions before the table of texts wrote them; an event is never changed.
    """
    ended = bindings.c.ended_at.is_not(None), *_up_to(bindings.c.requested_at, until)
    ids = select(bindings.c.id).where(_of_phone(connection, phone, *_SIDES.values()), *ended)
    statement = select(events_table.c.kind, events_table.c.detail).where(
        events_table.c.binding_id.in_(ids), events_table.c.kind.in_(_TEXTS_OF_EARLIER_VERSIONS)
    )
    return sum(_has_text(row.kind, row.detail) for row in connection.execute(statement))


_TEXTS_OF_EARLIER_VERSIONS = {
    EventKind.REQUESTED: ("reference",),
    EventKind.UNBIND_REQUESTED: ("reason",),
    EventKind.SHORTENED: ("reason",),
    EventKind.REVEALED: ("reason",),
    EventKind.FAILED: ("said", "because"),
}


def _has_text(kind: str, detail: dict[str, Any]) -> bool:
    names = _TEXTS_OF_EARLIER_VERSIONS[EventKind(kind)]
    own_words = detail.get("status") is None and "because" not in detail  # of a bind that was never sent
    return not (kind == EventKind.FAILED and own_words) and any(
        isinstance(detail.get(name), str) for name in names
    )


def all_phones(connection: Connection) -> Iterator[Phone]:
    """Yield the phones of every binding, refused bind and hold, in no order and more than once."""
    for table, names in ((bindings, PAIR), (refusals, PAIR), (holds, ("phone",))):
        sealed = (table.c[f"{name}{phones.SUFFIX}"] for name in names)
        columns = table.c.id, table.c.phone_key, *(table.c[name] for name in names), *sealed
        with connection.execute(select(*columns)) as rows:
            for row in rows:
                yield from (
                    phone for phone in phones.opened(row, table.name, names).values() if not phone.is_erased
                )
