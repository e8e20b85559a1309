"""Changes of the end of an active binding: extended, shortened, or narrowed to what the provider's list has.

The promised end (`expires_at`) moves; the provider's own end is kept in `provider_expires_at` as soon as the two
differ, so that the promised end is never later (I6) and the rest of the provider's time is released after it. Each
change is one statement with its event, and only of a binding that is active and not to be unbound.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, auto
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Float, Interval, and_, bindparam, case, func, null, or_, update
from sqlalchemy.sql.elements import literal_column

from bindings.domain.binding import EventKind, State
from bindings.domain.text import optional_text
from bindings.store import events
from bindings.store.bindings import COLUMNS, in_state, to_opened_binding, version_columns
from bindings.store.column_types import BindingId, Instant
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row

    from bindings.domain.binding import Binding, Caller
    from bindings.store.database import SqlDialect, Transaction

PROVIDER_END = func.coalesce(bindings.c.provider_expires_at, bindings.c.expires_at, type_=Instant)
FACTS = ("expires_at", "provider_expires_at")
CLOCK_TOLERANCE = timedelta(seconds=60)


class _Change(Enum):
    """In which direction the promised end moves."""

    EXTEND = auto()
    SHORTEN = auto()


def extend(
    tx: Transaction, binding_id: str, caller: Caller, *, expire_s: int, now: datetime, actor: str | None
) -> Binding | None:
    """Move the promised end to `expire_s` seconds from now, and make its `expires_soon` event due again.

    None, and nothing is changed, if the binding is not active, is another actor's (`actor` None: of any), would
    end earlier than before or later than at the provider, or if the deciding clock is not within a minute of
    `now`.
    """
    values = _values(tx, binding_id, now, expire_s) | {"of_actor": actor}
    rows = _movement(tx.dialect, _Change.EXTEND).run(
        tx, EventKind.EXTENDED, caller, {"expire_s": expire_s}, values
    )
    return _to_binding(tx, rows, _Change.EXTEND)


def shorten(
    tx: Transaction, binding_id: str, caller: Caller, *, after_s: int, reason: str | None, now: datetime
) -> Binding | None:
    """Move the promised end to `after_s` seconds from now. None if it would not end earlier; else as `extend`."""
    values = _values(tx, binding_id, now, after_s) | {"of_actor": None}
    rows = _movement(tx.dialect, _Change.SHORTEN).run(
        tx, EventKind.SHORTENED, caller, {"after_s": after_s, "reason": optional_text(reason)}, values
    )
    return _to_binding(tx, rows, _Change.SHORTEN)


def narrow(
    tx: Transaction, binding_id: str, caller: Caller, *, provider_end: datetime, detail: dict[str, Any]
) -> Binding | None:
    """Follow an earlier end in the provider's list: no promised end is later. None if nothing is to be changed."""
    rows = _narrowing(tx.dialect).run(
        tx, EventKind.DRIFTED, caller, detail, {"of_id": binding_id, "new_provider_expires_at": provider_end}
    )
    return to_opened_binding(rows[0][:-1]) if rows else None


def _values(tx: Transaction, binding_id: str, now: datetime, seconds: int) -> dict[str, Any]:
    bounds = {"clock_from": now - CLOCK_TOLERANCE, "clock_to": now + CLOCK_TOLERANCE}
    lifetime = timedelta(seconds=seconds)
    end = {"lifetime": lifetime} if tx.dialect.server_clock else {"new_expires_at": tx.instant() + lifetime}
    return {"of_id": binding_id} | bounds | end


def _to_binding(tx: Transaction, rows: Sequence[Row[Any]], change: _Change) -> Binding | None:
    """Return the binding whose end was moved, or None if none was; on SQLite also move its warning."""
    if not rows:
        return None
    binding = to_opened_binding(rows[0][:-1])
    if not tx.dialect.server_clock:
        _move_warning(tx, binding, change)
    return binding


@cache
def _movement(dialect: SqlDialect, change: _Change) -> events.ChangeWithEvents:
    now, expires_at = dialect.now_once, bindings.c.expires_at
    new_end: ColumnElement[datetime] = bindparam("new_expires_at", type_=Instant)
    if dialect.server_clock:
        new_end = now + bindparam("lifetime", type_=Interval)
    # Each reading of the clock is slightly later than the one before it: the promised end must not pass the other.
    bounded_end = func.least(new_end, PROVIDER_END, type_=Instant) if dialect.server_clock else new_end
    actor = bindparam("of_actor", type_=bindings.c.actor.type)
    values: dict[str, Any] = {"expires_at": bounded_end, "provider_expires_at": PROVIDER_END}
    if dialect.server_clock:
        values["warn_at"] = _warn_at(new_end, change)
    statement = (
        update(bindings)
        .where(
            bindings.c.id == bindparam("of_id", type_=BindingId),
            in_state(State.ACTIVE),
            bindings.c.unbind_requested_at.is_(None),
            expires_at > now,
            or_(actor.is_(None), bindings.c.actor == actor),
            now.between(bindparam("clock_from", type_=Instant), bindparam("clock_to", type_=Instant)),
            and_(new_end > expires_at, new_end <= PROVIDER_END)
            if change is _Change.EXTEND
            else new_end < expires_at,
        )
        .values(values | version_columns(dialect))
        .returning(*COLUMNS, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement, facts=FACTS)


def _warn_at(new_end: ColumnElement[datetime], change: _Change) -> ColumnElement[Any]:
    """Return when the `expires_soon` event is due (PostgreSQL); of a shortened binding not again once written."""
    seconds = func.make_interval(*[literal_column("0")] * 6, func.cast(bindings.c.warn_s, Float))
    not_due = bindings.c.warn_s if change is _Change.EXTEND else bindings.c.warn_at
    return case((not_due.is_(None), null()), else_=new_end - seconds)


def _move_warning(tx: Transaction, binding: Binding, change: _Change) -> None:
    """Do what `_warn_at` does where SQL cannot: the instants of SQLite are text."""
    if binding.warn_s is None or binding.expires_at is None:
        return
    rows = update(bindings).where(bindings.c.id == binding.id)
    if change is _Change.SHORTEN:
        rows = rows.where(bindings.c.warn_at.is_not(None))
    tx.connection.execute(rows.values(warn_at=binding.expires_at - timedelta(seconds=binding.warn_s)))


@cache
def _narrowing(dialect: SqlDialect) -> events.ChangeWithEvents:
    provider_end = bindparam("new_provider_expires_at", type_=Instant)
    earlier = func.least if dialect.postgres else func.min
    values = {
        "expires_at": earlier(bindings.c.expires_at, provider_end, type_=Instant),
        "provider_expires_at": case((bindings.c.provider_expires_at.is_not(None), provider_end), else_=null()),
    }
    statement = (
        update(bindings)
        .where(
            bindings.c.id == bindparam("of_id", type_=BindingId),
            in_state(State.ACTIVE),
            provider_end < PROVIDER_END,
        )
        .values(values | version_columns(dialect))
        .returning(*COLUMNS, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement, facts=FACTS)
