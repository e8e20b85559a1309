"""Open bindings (pending, in doubt or active) of a phone, a middle number or a reference, and requests to unbind.

Each is one statement for any number of bindings. The bindings are reached by the indexes of lookups.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, or_, select, update

from bindings.domain.binding import EventKind, State
from bindings.domain.text import FreeText
from bindings.store import events, phones, sql
from bindings.store.bindings import COLUMNS, NAMES, middle_number_b_is, to_opened_binding, version_columns
from bindings.store.column_types import BindingId
from bindings.store.queries import LONGEST_SPAN, run
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Dialect

    from bindings.domain.binding import Binding, Caller
    from bindings.domain.selection import Selection
    from bindings.store.database import SqlDialect, Transaction

OPEN_STATES = (State.PENDING, State.IN_DOUBT, State.ACTIVE)


def find(
    connection: Connection, selection: Selection, now: datetime, *, actor: str | None, limit: int
) -> list[Binding]:
    """Return up to `limit` open bindings of the selection at the instant `now`, those of `actor` (None: of any).

    First those that no unbind was requested for, the oldest first. An active binding past its end is not open. A
    successor that has waited too long for its predecessor is, until it is ended: then it keeps its key.
    """
    branches = _branches(connection.dialect, selection, now)
    candidates = sql.materialized(*(select(*COLUMNS).where(branch) for branch in branches))
    columns = candidates.c
    statement = select(*(columns[name] for name in NAMES)).where(
        columns.state.in_(OPEN_STATES), or_(columns.expires_at.is_(None), columns.expires_at > now)
    )
    if actor is not None:
        statement = statement.where(columns.actor == actor)
    order = columns.unbind_requested_at.is_not(None), columns.requested_at, columns.id
    return run(connection, statement.order_by(*order).limit(limit))


def _branches(dialect: Dialect, selection: Selection, now: datetime) -> Sequence[ColumnElement[bool]]:
    held = bindings.c.held_until > now
    overdue = and_(bindings.c.waits_for.is_not(None), bindings.c.ended_at.is_(None), bindings.c.settle_by <= now)
    if selection.phone is not None:
        phone = phones.forms(dialect, selection.phone)
        by_a, by_b = (phones.is_any_of(column, phone) for column in (bindings.c.phone_a, bindings.c.phone_b))
        return and_(by_a, held), and_(by_b, held), and_(or_(by_a, by_b), overdue)
    if selection.middle_number is not None:
        number = selection.middle_number
        return and_(bindings.c.middle_number_a == number, held), and_(middle_number_b_is(number), held)
    recent = bindings.c.requested_at > now - LONGEST_SPAN
    of_reference = and_(bindings.c.reference == selection.reference, recent)
    return and_(of_reference, held), and_(of_reference, overdue)


def request_unbinds(tx: Transaction, binding_ids: Sequence[str], caller: Caller, reason: str) -> list[Binding]:
    """Record a request to unbind for those of these bindings that are open and have none; return those.

    From the commit on, no lookup returns them. Safe to repeat.
    """
    detail = {"reason": FreeText(reason)}
    rows = [  # one statement for each: every text gets a salt of its own
        row
        for binding_id in binding_ids
        for row in _requests(tx.dialect).run(tx, EventKind.UNBIND_REQUESTED, caller, detail, {"of_id": binding_id})
    ]
    return [to_opened_binding(row[:-1]) for row in rows]


@cache
def _requests(dialect: SqlDialect) -> events.ChangeWithEvents:
    values: dict[str, Any] = {
        "unbind_requested_at": dialect.clamp(dialect.now, low=bindings.c.requested_at, high=bindings.c.held_until)
    }
    statement = (
        update(bindings)
        .where(
            bindings.c.id == bindparam("of_id", type_=BindingId),
            bindings.c.ended_at.is_(
                None
            ),  # not by state: an index of all open ones might seem cheaper to a planner
            bindings.c.unbind_requested_at.is_(None),
        )
        .values(values | version_columns(dialect))
        .returning(*COLUMNS, bindings.c.change_tx)
    )
    return events.ChangeWithEvents(dialect, statement, facts=("unbind_requested_at",))
