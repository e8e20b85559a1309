"""The row of a binding: read it, and change it together with its event.

Every change is a compare-and-set on the state that it starts from, so that a state only moves forward (I5) and a
late writer changes nothing; every change writes its event in the same statement or transaction (I7). The changes
themselves are in `reserve`, `settle` and `expiry`. All functions are safe to run again.
"""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy import ColumnElement, Interval, and_, bindparam, exists, func, or_, select, update

from bindings.domain.binding import Binding, Mode, State
from bindings.store import events, sql
from bindings.store.column_types import BindingId, BlindIndex
from bindings.store.compiled import CompiledStatement
from bindings.store.phones import read_phone, require_open
from bindings.store.schema import bindings, holds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

    from sqlalchemy import Connection, Row

    from bindings.domain.binding import Caller, EventKind
    from bindings.domain.phone import Phone
    from bindings.store.database import SqlDialect, Transaction

FIELDS = tuple(field.name for field in fields(Binding))
PHONES = ("phone_a", "phone_b")
_MODES = {mode.value: mode for mode in Mode}  # a lookup takes a fifth of the time of `Mode(value)`
_STATES = {state.value: state for state in State}
idempotency_key = func.coalesce(bindings.c.idempotency_key, bindings.c.duplicate_key)  # as in its index
NAMES = (*FIELDS, "phone_a_sealed", "phone_b_sealed", "phone_key")
COLUMNS = tuple(idempotency_key.label(name) if name == "idempotency_key" else bindings.c[name] for name in NAMES)
# A binding is made as an object of this class, whose constructor sets the slots, and then becomes a `Binding`,
# which has the same slots but is frozen (`frozen`): a fifth of the time of `Binding(**values)` (CPython 3.11).
# `test_to_binding_equals_the_constructor` holds both to the same result: if the constructor is as fast one day, it
# can take the place of this.
BindingFields: Any = make_dataclass("BindingFields", [(name, Any, None) for name in FIELDS], slots=True)
_values_of = attrgetter(*FIELDS)
_ID = FIELDS.index("id")
_A, _B = (FIELDS.index(name) for name in PHONES)
_FIRST_SEALED = len(FIELDS)
_PHONE_COLUMNS = tuple(
    (FIELDS.index(name), f"bindings.{name}", sealed) for sealed, name in enumerate(PHONES, _FIRST_SEALED)
)
_PHONE_KEY = _FIRST_SEALED + len(PHONES)
_NONE: Mapping[str, Phone] = {}
_BY_ID = CompiledStatement(select(*COLUMNS).where(bindings.c.id == bindparam("id", type_=BindingId)))


def find(connection: Connection, binding_id: str) -> Binding | None:
    """Return the binding with this id, or None. `Busy` if one of its phones does not open."""
    rows = _BY_ID.fetch_all(connection, {"id": binding_id})
    return to_opened_binding(rows[0]) if rows else None


class BindingLost(LookupError):
    """A committed binding is not in the database: the database was restored to an earlier state."""


def get(tx: Transaction, binding_id: str) -> Binding:
    """Return a binding that is known to be committed. Raises `BindingLost` if it is not in the database."""
    binding = find(tx.connection, binding_id)
    if binding is None:
        raise BindingLost(f"binding {binding_id} was committed and is not in the database any more")
    return binding


def to_binding(row: Sequence[Any] | Row[Any], phone_by_index: Mapping[str, Phone] = _NONE) -> Binding:
    """Return a binding from its row (the columns `COLUMNS`), whose sealed phones are opened at their first use.

    `phone_by_index` has phones by their blind indexes, which need not be opened again.
    """
    values = row[:_FIRST_SEALED]
    key = row[_PHONE_KEY]
    if key is not None or isinstance(row[_A], BlindIndex) or isinstance(row[_B], BlindIndex):
        values = list(values)
        for phone, column, sealed in _PHONE_COLUMNS:
            stored = row[phone]
            values[phone] = phone_by_index.get(stored) or read_phone(key, column, row[_ID], stored, row[sealed])
    fields_of_row = BindingFields(*values)
    fields_of_row.mode = _MODES[fields_of_row.mode]
    fields_of_row.state = _STATES[fields_of_row.state]
    return frozen(fields_of_row)


def frozen(fields: Any) -> Binding:
    """Make a binding of `BindingFields`, and return it: it is the same object."""
    fields.__class__ = Binding
    binding: Binding = fields
    return binding


def changed_binding(binding: Binding, values: Mapping[str, Any]) -> Binding:
    """Return the binding with other values of some fields; `dataclasses.replace` takes several times as long."""
    changed = BindingFields(*_values_of(binding))
    for name, value in values.items():
        setattr(changed, name, value)
    return frozen(changed)


def to_opened_binding(row: Sequence[Any] | Row[Any]) -> Binding:
    """Return a binding from its row with its phones opened; `Busy` if one does not open.

    For a change, in its transaction: an error that came with the response would come after the change.
    """
    binding = to_binding(row)
    require_open((binding.phone_a, binding.phone_b))
    return binding


class _Now:
    """A placeholder in the values of a change, for the instant that the deciding clock reads.

    Never before the row's `requested_at` nor after its `held_until`, so that a clock that jumps writes no instant
    outside of the longest possible lifetime of the binding.
    """


NOW = _Now()


class NewValues(TypedDict, total=False):
    """The columns that `transition` may change. A value may be an expression of columns of the row, or `NOW`."""

    state: State
    reason: str | None
    provider_status: str | None
    bind_id: str
    middle_number_a: str
    middle_number_b: str
    requested_at: datetime
    send_by: datetime
    settle_by: datetime
    sent_at: datetime | None
    answered_at: datetime
    expires_at: datetime
    provider_expires_at: datetime | None
    warn_at: datetime | None
    held_until: datetime | _Now
    unbind_requested_at: _Now
    ended_at: datetime | _Now | ColumnElement[datetime] | None
    waits_for: None
    replaced_by: str
    idempotency_key: None
    duplicate_key: None
    freed_key: ColumnElement[str]


def _condition(dialect: SqlDialect, name: str) -> ColumnElement[bool]:
    """Return a condition on the row that `transition` may name besides the state that the change starts from."""
    now, expires_at = dialect.now_once, bindings.c.expires_at
    conditions = {
        "bind_id_unused": and_(~_is_used(new_value("bind_id"), now), ~_is_held(new_value("bind_id"), now)),
        "unbind_possible": and_(
            bindings.c.unbind_requested_at.is_(None), or_(expires_at.is_(None), expires_at > now)
        ),
        "unbind_not_requested": bindings.c.unbind_requested_at.is_(None),
        "past_end": expires_at <= now,
        "held_longer_or_release_owed": or_(
            bindings.c.held_until > new_value("held_until"), bindings.c.provider_expires_at > bindings.c.ended_at
        ),
        "held_shorter": bindings.c.held_until < new_value("held_until"),
        "waiting": bindings.c.waits_for.is_not(None),
        "waiting_and_unbind_not_requested": and_(
            bindings.c.waits_for.is_not(None), bindings.c.unbind_requested_at.is_(None)
        ),
        "waiting_in_time": and_(
            bindings.c.waits_for.is_not(None),
            bindings.c.unbind_requested_at.is_(None),
            bindings.c.settle_by > new_value("requested_at"),
        ),
    }
    return conditions[name]


def _is_used(bind_id: ColumnElement[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that another binding of the application may live at the provider with the bind_id."""
    other = bindings.alias("other")
    return exists().where(
        other.c.app_id == bindings.c.app_id,
        other.c.bind_id == bind_id,
        or_(sql.equals_literal(other.c.state, State.ACTIVE), release_owed(now, other)),
        other.c.id != bindings.c.id,
    )


def _is_held(bind_id: ColumnElement[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that a hold of the application has the bind_id."""
    return exists().where(
        holds.c.app_id == bindings.c.app_id, holds.c.bind_id == bind_id, holds.c.held_until > now
    )


def transition(
    tx: Transaction,
    binding_id: str,
    kind: EventKind,
    caller: Caller,
    *,
    from_states: tuple[State, ...],
    detail: dict[str, Any] | None = None,
    condition: str | None = None,
    **values: Unpack[NewValues],
) -> Binding | None:
    """Change one binding if it is still in one of `from_states`, and write its event; return it as changed.

    The instant of `NOW` is also put into the detail.
    Returns None and writes nothing if the row is in another state or the condition is not met: the caller reads it
    again and decides. Raises `ValueError` for a change of state that the table of transitions does not have (I5).
    """
    if "state" in values:
        require_transition(from_states, values["state"])
    expressions = tuple((name, value) for name, value in values.items() if isinstance(value, _Now | ColumnElement))
    computed = {name for name, _ in expressions}
    bound = tuple(name for name in values if name not in computed)
    new_values = {f"new_{name}": value for name, value in values.items() if name not in computed}
    statement = build_change(tx.dialect, from_states, condition, bound, expressions)
    rows = statement.run(tx, kind, caller, detail or {}, {"of_id": binding_id, **new_values})
    if not rows:
        return None
    return to_opened_binding(rows[0][:-1])


def require_transition(from_states: tuple[State, ...], to_state: State) -> None:
    """Raise `ValueError` unless each of `from_states` may be followed by `to_state` (I5). Takes 0.2 µs."""
    for state in from_states:
        if to_state not in state.next_states:
            raise ValueError(f"a binding that is {state} cannot become {to_state}; nothing was written")


@cache
def build_change(
    dialect: SqlDialect,
    from_states: tuple[State, ...],
    condition: str | None,
    bound: tuple[str, ...],
    expressions: tuple[tuple[str, _Now | ColumnElement[Any]], ...],
    *,
    from_record: bool = False,
    facts: tuple[str, ...] = (),
    result: tuple[str, ...] | None = None,
) -> events.ChangeWithEvents:
    """Build the statement of a change whose `bound` columns take parameters and the others SQL expressions.

    With `from_record`, `held_until` is `hold` from the moment of the change on, but at least the new value; it
    exceeds that only up to the row's `held_until` before the change. The event has these `facts` of the row, and
    what is determined here. The statement returns the columns `result`; None: `COLUMNS` and `change_tx`.
    """
    values: dict[str, Any] = {name: new_value(name) for name in bound}
    now = dialect.clamp(dialect.now, low=bindings.c.requested_at, high=bindings.c.held_until)
    values |= {name: now if isinstance(value, _Now) else value for name, value in expressions}
    if from_record:
        longest = func.least(bindings.c.held_until, dialect.now + bindparam("hold", type_=Interval))
        values["held_until"] = func.greatest(new_value("held_until"), longest)
    statement = update(bindings).where(
        bindings.c.id == bindparam("of_id", type_=BindingId), or_(*(in_state(state) for state in from_states))
    )
    if condition is not None:
        statement = statement.where(_condition(dialect, condition))
    determined_here = {name for name, value in expressions if isinstance(value, _Now)}
    all_facts = tuple(sorted({*facts, *determined_here, *(("held_until",) if from_record else ())}))
    if result is None:
        returned: Iterable[ColumnElement[Any]] = (*COLUMNS, bindings.c.change_tx)
    else:
        returned = (
            bindings.c[name] for name in dict.fromkeys(("id", "version", "change_tx", *all_facts, *result))
        )
    changed = statement.values(values | version_columns(dialect)).returning(*returned)
    return events.ChangeWithEvents(dialect, changed, facts=all_facts, result=result)


def version_columns(dialect: SqlDialect) -> dict[str, Any]:
    """Return the values that every change of a binding writes besides its own."""
    return {"version": bindings.c.version + 1, "change_tx": events.change_tx(dialect)}


def new_value(name: str) -> ColumnElement[Any]:
    """Return the bound parameter for a column."""
    return bindparam(f"new_{name}", type_=bindings.c[name].type)


def has_key(key: str) -> ColumnElement[bool]:
    """Return the condition that a binding has an idempotency key, for a search that knows no more."""
    # The second condition follows from the first. Its columns have statistics: an expression in an index has none
    # if no row has a key, and a planner would expect it in so many rows that it read the table by the order asked.
    return and_(idempotency_key == key, or_(bindings.c.idempotency_key == key, bindings.c.duplicate_key == key))


def in_state(state: State) -> ColumnElement[bool]:
    """Return the condition that a binding is in this state, as its partial index has it."""
    return sql.equals_literal(bindings.c.state, state)


def release_owed(now: Any, table: Any = bindings) -> ColumnElement[bool]:
    """Return the condition that an expired binding is to be unbound at the provider, as its index has it."""
    return and_(
        sql.equals_literal(table.c.state, State.EXPIRED),
        table.c.provider_expires_at > table.c.ended_at,
        table.c.provider_expires_at > now,
    )


def middle_number_b_is(number: Any) -> ColumnElement[bool]:
    """Return the condition that only B's middle number is `number`; one that both share is found as A's.

    Written as in the partial index, which serves no other form.
    """
    return and_(bindings.c.middle_number_b == number, bindings.c.middle_number_b != bindings.c.middle_number_a)
