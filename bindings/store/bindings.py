"""A binding's row: read it, and change it together with its event.

Every change is guarded by the state that it leaves, so that a state only moves forward (I5) and a late writer
changes nothing; every change writes its event in the same statement or transaction (I7). Which changes there
are stands in `reserve`, `settle` and `overdue`. All of it is safe to run again.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, and_, bindparam, literal_column, or_, select, update

from bindings.domain.binding import Binding, Mode, State
from bindings.store import events
from bindings.store.column_types import BindingId
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row

    from bindings.domain.binding import Caller, EventKind
    from bindings.store.database import SqlDialect, Transaction

FIELDS = tuple(field.name for field in fields(Binding))
_MODES = {mode.value: mode for mode in Mode}  # a lookup takes a fifth of what the enumeration's call does
_STATES = {state.value: state for state in State}
COLUMNS = tuple(bindings.c[name] for name in FIELDS)
# Filling the fields of a frozen class one by one takes a third of what its constructor does.
_PUT = tuple(getattr(Binding, name).__set__ for name in FIELDS)
_PUT_MODE, _PUT_STATE = (_PUT[FIELDS.index(name)] for name in ("mode", "state"))


def find(connection: Connection, binding_id: str) -> Binding | None:
    """The binding with this id."""
    row = connection.execute(select(*COLUMNS).where(bindings.c.id == binding_id)).one_or_none()
    return None if row is None else to_binding(row)


class BindingLost(LookupError):
    """A binding that was committed is not in the database: somebody put an older one in its place."""


def get(tx: Transaction, binding_id: str) -> Binding:
    """The binding with this id, which is known to be there; else `Gone`."""
    found = find(tx.connection, binding_id)
    if found is None:
        raise BindingLost(f"binding {binding_id} is gone from the database")
    return found


def to_binding(row: Sequence[Any] | Row[Any]) -> Binding:
    """A binding from its row (the columns of `COLUMNS`)."""
    binding = Binding.__new__(Binding)
    for put, value in zip(_PUT, row, strict=True):
        put(binding, value)
    _PUT_MODE(binding, _MODES[binding.mode])
    _PUT_STATE(binding, _STATES[binding.state])
    return binding


class _Now:
    """Stands for the clock that decides, in the values of a change."""


NOW = _Now()


def _condition(dialect: SqlDialect, name: str) -> ColumnElement[bool]:
    """What a change may ask of the row besides the state that it leaves."""
    now, expires_at = dialect.now_once, bindings.c.expires_at
    guards = {
        "wanted": and_(bindings.c.unbind_requested_at.is_(None), or_(expires_at.is_(None), expires_at > now)),
        "over": expires_at <= now,
        "held_longer": bindings.c.held_until > new_value("held_until"),
        "held_shorter": bindings.c.held_until < new_value("held_until"),
        "ends_later": expires_at > new_value("expires_at"),
    }
    return guards[name]


def transition(
    tx: Transaction,
    binding_id: str,
    kind: EventKind,
    caller: Caller,
    *,
    from_states: tuple[State, ...],
    detail: dict[str, Any] | None = None,
    condition: str | None = None,
    **values: Any,
) -> Binding | None:
    """Change one binding if it is still in a state that `leaves` names, and write the event.

    A value may be a column of the row, or `NOW`. None, and nothing written, where the row is in another state:
    the caller reads it again and decides.
    """
    by_sql = tuple((name, value) for name, value in values.items() if isinstance(value, _Now | Column))
    given = tuple(name for name in values if name not in dict(by_sql))
    statement = _change(tx.dialect, from_states, condition, given, by_sql)
    new = {f"new_{name}": values[name] for name in given}
    rows = statement.run(tx, kind, caller, detail or {}, of_id=binding_id, **new)
    return to_binding(rows[0][:-1]) if rows else None


@cache
def _change(
    dialect: SqlDialect,
    leaves: tuple[State, ...],
    guard: str | None,
    given: tuple[str, ...],
    by_sql: tuple[tuple[str, _Now | Column[Any]], ...],
) -> events.ChangeWithEvents:
    values: dict[str, Any] = {name: new_value(name) for name in given}
    values |= {name: dialect.now if isinstance(value, _Now) else value for name, value in by_sql}
    statement = update(bindings).where(
        bindings.c.id == bindparam("of_id", type_=BindingId), or_(*(in_state(state) for state in leaves))
    )
    if guard is not None:
        statement = statement.where(_condition(dialect, guard))
    changed = statement.values(values | version_columns(dialect)).returning(*COLUMNS, bindings.c.change_tx)
    return events.ChangeWithEvents(dialect, changed)


def version_columns(dialect: SqlDialect) -> dict[str, Any]:
    """What every change of a binding writes besides its own values."""
    return {"version": bindings.c.version + 1, "change_tx": events.change_tx(dialect)}


def new_value(name: str) -> ColumnElement[Any]:
    """The parameter that fills a column."""
    return bindparam(f"new_{name}", type_=bindings.c[name].type)


def in_state(state: State) -> ColumnElement[bool]:
    """A literal, so that the partial index of that state serves also where the server plans without values."""
    return bindings.c.state == literal_column(f"'{state}'")


def middle_number_b_is(number: Any) -> ColumnElement[bool]:
    """B's middle number is this one and A's is not; a binding whose parties share one is found by A's.

    In the words of the index, which serves no others.
    """
    return and_(bindings.c.middle_number_b == number, bindings.c.middle_number_b != bindings.c.middle_number_a)


def to_json_value(value: Any) -> Any:
    """A value as an event's detail tells it."""
    return value.isoformat() if isinstance(value, datetime) else value
