"""Reads of holds for people: those of a phone, those of bindings with a middle number, and all in force.

A phone is found by the index over (phone, held_until), whether the hold is in force or has ended. A hold has no
middle number: that of a binding which ended here and lives at the provider is found from the holds that were in
force, by one probe for the binding of each. Tests pin the plans. Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, literal_column, or_, select, union_all

from bindings.domain import hold
from bindings.domain.hold import HoldReason, PhoneHold
from bindings.store import phones as stored_phones
from bindings.store import queries, sql
from bindings.store.column_types import Instant
from bindings.store.compiled import MOST_CLOCKS, CompiledStatement
from bindings.store.holds import NO_APP
from bindings.store.schema import bindings
from bindings.store.schema import holds as table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from bindings.domain.binding import Binding
    from bindings.domain.phone import Phone

MAX_HOLDS = 50

_NAMES = (
    "id",
    "phone",
    "phone_sealed",
    "phone_key",
    "why",
    "app_id",
    "bind_id",
    "origin_id",
    "held_until",
    "created_at",
)
_COLUMNS = tuple(table.c[name] for name in _NAMES)


def of_number(
    connection: Connection,
    now: ColumnElement[datetime],
    *,
    phones: Sequence[Phone] = (),
    middle_number: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[PhoneHold]:
    """Return the newest holds of `phones` and of bindings with `middle_number`, the latest `held_until` first.

    With `since` and `until`, those that may have been in force at some time between the two; without, every
    recorded hold of the phones, and those of the middle number that are in force at `now`.
    """
    dialect, names = connection.dialect, tuple(f"phone_{index}" for index in range(len(phones)))
    statement = _of_number(
        now,
        names,
        stored_phones.form_count(dialect),
        has_middle_number=middle_number is not None,
        is_of_period=since is not None and until is not None,
    )
    by_name = stored_phones.parameter_values(dialect, **dict(zip(names, phones, strict=True)))
    values = by_name | {"middle_number": middle_number, "since": since, "until": until}
    rows = {row.id: row for row in statement.fetch_all(connection, values)}
    newest = sorted(rows.values(), key=lambda row: (row.held_until, row.id), reverse=True)[:MAX_HOLDS]
    origins = _origins(connection, newest)
    return [_to_phone_hold(row, origins.get(row.origin_id)) for row in newest]


@lru_cache(maxsize=8 * MOST_CLOCKS)
def _of_number(
    now: ColumnElement[datetime],
    phones: tuple[str, ...],
    form_count: int,
    *,
    has_middle_number: bool,
    is_of_period: bool,
) -> CompiledStatement:
    """Build the statement of `of_number`, in which the phones are parameters of these names."""
    since, until = (bindparam(name, type_=Instant) for name in ("since", "until"))
    before = (table.c.created_at <= until,) if is_of_period else ()
    after = (table.c.held_until > since,) if is_of_period else ()
    forms = (stored_phones.parameters(name, form_count) for name in phones)
    branches = [_newest(now, stored_phones.is_any_of(table.c.phone, texts), *after, *before) for texts in forms]
    if has_middle_number:
        in_force = table.c.held_until > (since if is_of_period else now)
        branches.append(_newest(now, in_force, *before, *_of_revenant()))
    return CompiledStatement(union_all(*branches))


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldInForce:
    """A hold in force, with its `id`; `refusals` counts the -35 in a row that a hold `refused` is for, else 0."""

    id: str
    hold: PhoneHold
    refusals: int


def in_force(
    connection: Connection, now: ColumnElement[datetime], *, after: tuple[datetime, str] | None, limit: int
) -> list[HoldInForce]:
    """Return up to `limit` holds in force, the next to end first, after the position (held_until, id)."""
    order = table.c.held_until, table.c.id
    statement = select(*_COLUMNS, table.c.strikes, (table.c.held_until > now).label("in_force")).where(
        table.c.held_until > now, *(() if after is None else (sql.keyset_after(order, after),))
    )
    rows = connection.execute(statement.order_by(*order).limit(limit)).all()
    origins = _origins(connection, rows)
    return [
        HoldInForce(
            id=row.id,
            hold=_to_phone_hold(row, origins.get(row.origin_id)),
            refusals=max(row.strikes, 0) if row.why == HoldReason.REFUSED else 0,
        )
        for row in rows
    ]


def _origins(connection: Connection, rows: Sequence[Row[*tuple[Any, ...]]]) -> dict[str, Binding]:
    """Return the bindings that the holds come from, by their ids."""
    origin_ids = {row.origin_id for row in rows if row.origin_id is not None}
    return {binding.id: binding for binding in queries.by_ids(connection, sorted(origin_ids))}


def _newest(now: ColumnElement[datetime], *conditions: ColumnElement[bool]) -> Select[Any]:
    """Return the newest holds of one branch, as a subquery: on SQLite a branch of a union has no ORDER BY."""
    columns = (*_COLUMNS, (table.c.held_until > now).label("in_force"))
    order = table.c.held_until.desc(), table.c.id.desc()
    return select(select(*columns).where(*conditions).order_by(*order).limit(MAX_HOLDS).subquery())


def _of_revenant() -> tuple[ColumnElement[bool], ...]:
    """Return the condition that a hold is of a binding that lives at the provider and has :middle_number.

    It is a scalar subquery: no planner can begin with the bindings, of which a middle number may have thousands.
    """
    number = bindparam("middle_number", type_=String)
    has_number = or_(bindings.c.middle_number_a == number, bindings.c.middle_number_b == number)
    probe = select(has_number).where(bindings.c.id == table.c.origin_id, bindings.c.bind_id == table.c.bind_id)
    return (
        table.c.why == literal_column(f"'{HoldReason.ORPHAN}'"),
        table.c.origin_id.is_not(None),
        probe.scalar_subquery(),
    )


def _to_phone_hold(row: Row[*tuple[Any, ...]], origin: Binding | None) -> PhoneHold:
    is_revenant = origin is not None and origin.bind_id is not None and origin.bind_id == row.bind_id
    explanation = hold.explain(row.why, has_origin=origin is not None, is_revenant=is_revenant)
    return PhoneHold(
        **stored_phones.opened(row, "holds", ("phone",)),
        why=sql.member(HoldReason, row.why),
        cause=explanation.cause,
        in_force=bool(row.in_force),
        first_held_at=row.created_at,
        held_until=row.held_until,
        ends_by=explanation.ends_by if row.in_force else None,
        binding_id=None if origin is None else origin.id,
        actor=None if origin is None else origin.actor,
        bind_id=row.bind_id,
        app_id=row.app_id if row.app_id != NO_APP else None,
    )
