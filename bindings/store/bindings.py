"""The life of a binding in the database: reserve, settle, end.

Every UPDATE is guarded by the state that it leaves, so that a state only moves forward (I5) and a late writer
changes nothing; every change writes its event in the same statement or transaction (I7). `reserve` is the one
place where phones are locked and conflicts are checked (I1), and it commits before anything is sent (I3).
All functions run inside a transaction of `Database.write` and are safe to run again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Integer, and_, bindparam, insert, literal_column, or_, select, update

from bindings import conflict
from bindings.binding import Binding, EventKind, Holder, Mode, Reason, State
from bindings.store import events, holds
from bindings.store.schema import BindingId, Instant, PhoneNumber, bindings
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Executable, Row, Select

    from bindings.binding import BindRequest, Caller
    from bindings.conflict import Policy
    from bindings.phone import Phone
    from bindings.store.database import Flavour, Transaction

FIELDS = tuple(field.name for field in fields(Binding))
COLUMNS = tuple(bindings.c[name] for name in FIELDS)

# What a `requested` event tells; phones stand in the binding only.
_TOLD = ("mode", "pool_number", "app_id", "reference", "expire_s", "send_by", "settle_by", "held_until")

SEND_WINDOW_S = 5.0  # from the intent to the last moment at which its request may leave
SETTLE_MARGIN_S = 1.0  # past the call's own time limit
LOCK_TIMEOUT_S = 4.0  # below the send window: a request that cannot leave in time need not wait longer
UNSETTLED = (State.PENDING, State.IN_DOUBT)
# The provider gave a bindId that another binding has already: by name, and as SQLite tells it.
BIND_ID_TAKEN = ("uq_bindings_app_id_bind_id", "bindings.app_id, bindings.bind_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the settings say about how long things may take and last; seconds."""

    scope: str
    policy: Policy
    call_timeout_s: float
    tolerance_s: float
    guard_for: Callable[[int], float]

    def lifetimes(self, at: datetime, expire_s: int) -> dict[str, datetime]:
        """The limits of an intent made at the instant `at` (lifecycle: bind, T1)."""
        send_by = at + timedelta(seconds=SEND_WINDOW_S)
        return {
            "requested_at": at,
            "send_by": send_by,
            "settle_by": send_by + timedelta(seconds=self.call_timeout_s + SETTLE_MARGIN_S),
            "held_until": send_by + timedelta(seconds=self.tolerance_s + expire_s + self.guard_for(expire_s)),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Reserved:
    """The intent is recorded and the phones are held; now, and only now, the request may be sent."""

    binding: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """The idempotency key was used before, by the same request (`same`) or by another one."""

    binding: Binding
    same: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A phone is held; nothing was written."""

    holder: Holder


def reserve(
    tx: Transaction, binding_id: str, request: BindRequest, terms: Terms, caller: Caller
) -> Reserved | Replayed | Held:
    """Lock both phones, check the conflict policy, and record the intent: the first transaction of a bind.

    Run again with the same `binding_id` after a COMMIT whose reply was lost, it finds the first one's row.
    """
    phones = (request.phone_a, request.phone_b)
    now = tx.lock([_lock_key(terms.scope, phone.key) for phone in phones], timeout_s=LOCK_TIMEOUT_S)
    if tx.attempt > 1 and (earlier := find(tx.connection, binding_id)) is not None:
        return Reserved(binding=earlier)
    held = holders(tx.connection, request, terms, now)
    if not held:
        binding = _new(binding_id, request, terms, caller, now)
        if _insert(tx, binding, caller):
            return Reserved(binding=binding)
    if (replayed := _replay(tx.connection, request)) is not None:
        return replayed
    return Held(holder=held[0])


def holders(connection: Connection, request: BindRequest, terms: Terms, now: datetime) -> list[Holder]:
    """Who forbids the request at the instant `now`, the one that holds longest first."""
    phones = [request.phone_a, request.phone_b]
    pair = {phone.key for phone in phones}
    found = [
        _holder(row, now)
        for row in connection.execute(_HOLDING, _of(phones, terms.scope, now))
        if conflict.refuses(
            terms.policy,
            held=Mode(row.mode),
            state=State(row.state),
            asked=request.mode,
            same_pair={row.phone_a.key, row.phone_b.key} == pair,
        )
    ]
    found += holds.holders(connection, phones, terms.scope, now)
    return sorted(found, key=lambda holder: holder.held_until, reverse=True)


def _holding() -> CompoundSelect[Any]:
    """The bindings that hold one of the two phones at :now, found by index and never by state."""
    columns = [
        bindings.c[name] for name in ("id", "reference", "mode", "state", "held_until", "phone_a", "phone_b")
    ]
    now = bindparam("now", type_=Instant)
    either = [bindparam(name, type_=PhoneNumber) for name in ("phone_1", "phone_2")]

    def branch(phone: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).where(
            phone.in_(either), bindings.c.held_until > now, bindings.c.scope == bindparam("scope")
        )

    return branch(bindings.c.phone_a).union(branch(bindings.c.phone_b))


_HOLDING = _holding()


def _of(phones: Sequence[Phone], scope: str, now: datetime) -> dict[str, Any]:
    return {"phone_1": phones[0], "phone_2": phones[1], "scope": scope, "now": now}


def _holder(row: Row[Any], now: datetime) -> Holder:
    return Holder(
        id=row.id,
        reference=row.reference,
        mode=Mode(row.mode),
        state=State(row.state),
        held_until=row.held_until,
        retry_after_s=seconds_until(row.held_until, now),
        why="binding",
    )


def seconds_until(then: datetime, now: datetime) -> int:
    """Whole seconds from `now` to `then`, rounded up, at least 1: what a caller should wait."""
    return max(1, -int((now - then) // timedelta(seconds=1)))


def _lock_key(scope: str, phone: str) -> int:
    digest = hashlib.blake2b(f"bindings:{scope}:{phone}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _new(binding_id: str, request: BindRequest, terms: Terms, caller: Caller, now: datetime) -> Binding:
    unset = dict.fromkeys(FIELDS)
    asked = {field.name: getattr(request, field.name) for field in fields(request)}
    made = {"id": binding_id, "scope": terms.scope, "state": State.PENDING, "version": 1}
    by = {"actor": caller.actor, "request_id": caller.request_id}
    limits = terms.lifetimes(now, request.expire_s)
    return Binding(**(unset | asked | made | by | limits))  # type: ignore[arg-type]


def _insert(tx: Transaction, binding: Binding, caller: Caller) -> bool:
    """Insert the row and its event; False where the id or the idempotency key is there already."""
    values = {f"new_{name}": getattr(binding, name) for name in FIELDS}
    detail = {name: _told(getattr(binding, name)) for name in _TOLD if getattr(binding, name) is not None}
    inserted = _insertion(tx.flavour).run(
        tx, EventKind.REQUESTED, caller, detail, new_fingerprint=fingerprint(binding), **values
    )
    return bool(inserted)


@cache
def _insertion(flavour: Flavour) -> events.Recorded:
    names = (*FIELDS, "fingerprint")
    values: dict[str, Any] = {name: _new_value(name) for name in names}
    statement = (
        flavour.insert(bindings)
        .values(values | {"change_tx": events.this_tx(flavour)})
        .on_conflict_do_nothing()
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.Recorded(flavour, statement)


def _new_value(name: str) -> ColumnElement[Any]:
    return bindparam(f"new_{name}", type_=bindings.c[name].type)


def fingerprint(request: BindRequest | Binding) -> str | None:
    """A keyless digest of what was asked, to compare requests that carry the same idempotency key."""
    if request.idempotency_key is None:
        return None
    asked = {
        "phone_a": request.phone_a.key,
        "phone_b": request.phone_b.key,
        "pool_number": request.pool_number,
        "expire_s": request.expire_s,
        "mode": request.mode,
        "reference": request.reference,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _replay(connection: Connection, request: BindRequest) -> Replayed | None:
    if request.idempotency_key is None:
        return None
    row = connection.execute(
        select(*COLUMNS, bindings.c.fingerprint).where(
            bindings.c.app_id == request.app_id, bindings.c.idempotency_key == request.idempotency_key
        )
    ).one_or_none()
    if row is None:
        return None
    return Replayed(binding=to_binding(row[:-1]), same=row.fingerprint == fingerprint(request))


def replay(connection: Connection, request: BindRequest) -> Replayed | None:
    """The binding that the request's idempotency key made before, if there is one."""
    return _replay(connection, request)


def find(connection: Connection, binding_id: str) -> Binding | None:
    """The binding with this id."""
    row = connection.execute(select(*COLUMNS).where(bindings.c.id == binding_id)).one_or_none()
    return None if row is None else to_binding(row)


class _Now:
    """Stands for the clock that decides, in the values of a change."""


NOW = _Now()


def _guard(flavour: Flavour, name: str) -> ColumnElement[bool]:
    """What a change may ask of the row besides the state that it leaves."""
    now, expires_at = flavour.now_once, bindings.c.expires_at
    guards = {
        "wanted": and_(bindings.c.unbind_requested_at.is_(None), or_(expires_at.is_(None), expires_at > now)),
        "over": expires_at <= now,
        "held_longer": bindings.c.held_until > _new_value("held_until"),
        "ends_later": expires_at > _new_value("expires_at"),
    }
    return guards[name]


def change(
    tx: Transaction,
    binding_id: str,
    kind: EventKind,
    caller: Caller,
    *,
    leaves: tuple[State, ...],
    detail: dict[str, Any] | None = None,
    guard: str | None = None,
    **values: Any,
) -> Binding | None:
    """Change one binding if it is still in a state that `leaves` names, and write the event.

    A value may be a column of the row, or `NOW`. None, and nothing written, where the row is in another state:
    the caller reads it again and decides.
    """
    by_sql = tuple((name, value) for name, value in values.items() if isinstance(value, _Now | Column))
    given = tuple(name for name in values if name not in dict(by_sql))
    statement = _change(tx.flavour, leaves, guard, given, by_sql)
    new = {f"new_{name}": values[name] for name in given}
    rows = statement.run(tx, kind, caller, detail or {}, of_id=binding_id, **new)
    return to_binding(rows[0][:-1]) if rows else None


@cache
def _change(
    flavour: Flavour,
    leaves: tuple[State, ...],
    guard: str | None,
    given: tuple[str, ...],
    by_sql: tuple[tuple[str, _Now | Column[Any]], ...],
) -> events.Recorded:
    values: dict[str, Any] = {name: _new_value(name) for name in given}
    values |= {name: flavour.now if isinstance(value, _Now) else value for name, value in by_sql}
    statement = update(bindings).where(
        bindings.c.id == bindparam("of_id", type_=BindingId), or_(*(_in_state(state) for state in leaves))
    )
    if guard is not None:
        statement = statement.where(_guard(flavour, guard))
    changed = statement.values(values | _counted(flavour)).returning(*COLUMNS, bindings.c.change_tx)
    return events.Recorded(flavour, changed)


def _counted(flavour: Flavour) -> dict[str, Any]:
    return {"version": bindings.c.version + 1, "change_tx": events.change_tx(flavour)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Success:
    """What the provider's yes settles: the first binding's facts and the limits that follow from them."""

    bind_id: str
    middle_number_a: str
    middle_number_b: str
    sent_at: datetime
    answered_at: datetime
    expires_at: datetime
    held_until: datetime

    def columns(self) -> dict[str, Any]:
        """The facts by column."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def detail(self) -> dict[str, str]:
        """The facts as an event tells them: enough to replay the row (I7)."""
        return {name: _told(value) for name, value in self.columns().items()}


def settle_made(tx: Transaction, binding_id: str, success: Success, caller: Caller) -> Binding:
    """Record the provider's yes. A yes for a binding that ended meanwhile is never dropped.

    It is kept as a hold on both phones, with its origin and a `late_success` event, until `recover` has
    unbound it. Safe to repeat: the same yes twice changes nothing.
    """
    row = change(
        tx,
        binding_id,
        EventKind.ACTIVATED,
        caller,
        leaves=UNSETTLED,
        detail=success.detail(),
        state=State.ACTIVE,
        provider_status=None,
        reason=None,
        **success.columns(),
    )
    if row is not None:
        return row
    current = must_find(tx, binding_id)
    if current.bind_id != success.bind_id and holds.put_late_success(tx, current, success):
        events.append(tx, binding_id, EventKind.LATE_SUCCESS, caller, {"bind_id": success.bind_id})
        current = must_find(tx, binding_id)
    return current


def settle_failed(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: str,
    status: str | None,
    detail: dict[str, Any],
) -> Binding:
    """Record that nothing came into being: the phones are free at once. Safe to repeat."""
    row = change(
        tx,
        binding_id,
        EventKind.FAILED,
        caller,
        leaves=UNSETTLED,
        detail=detail | {"reason": reason, "status": status},
        state=State.FAILED,
        provider_status=status,
        reason=reason,
        held_until=NOW,
        ended_at=NOW,
    )
    return row or must_find(tx, binding_id)


def settle_in_use(tx: Transaction, intent: Binding, caller: Caller, *, status: str) -> Binding:
    """Record that the provider refused a phone that was free here.

    If a binding of ours explains it, the event names it (`own`), which must never happen under a policy that
    fits the provider. Otherwise both phones are held for a while, so that the next bind is refused here.
    """
    now = tx.instant()
    phones = [intent.phone_a, intent.phone_b]
    rows = tx.connection.execute(_HOLDING, _of(phones, intent.scope, now))
    own = [{"id": row.id, "mode": row.mode, "state": row.state} for row in rows if row.id != intent.id]
    failed = change(
        tx,
        intent.id,
        EventKind.FAILED,
        caller,
        leaves=UNSETTLED,
        detail={"reason": Reason.IN_USE, "status": status, "mode": intent.mode, "own": own},
        state=State.FAILED,
        provider_status=status,
        reason=Reason.IN_USE,
        held_until=now,
        ended_at=now,
    )
    if failed is not None and not own:
        holds.put_refused(tx, intent, caller, now)
    return failed or must_find(tx, intent.id)


def settle_unclear(
    tx: Transaction, binding_id: str, caller: Caller, *, reason: str, status: str | None, said: str
) -> Binding:
    """Record that nobody knows. `held_until` stays: only a clear yes may lower it (I4). Safe to repeat."""
    row = change(
        tx,
        binding_id,
        EventKind.IN_DOUBT,
        caller,
        leaves=(State.PENDING,),
        detail={"reason": reason, "status": status, "said": said},
        state=State.IN_DOUBT,
        provider_status=status,
        reason=reason,
    )
    return row or must_find(tx, binding_id)


def request_unbind(tx: Transaction, binding_id: str, caller: Caller, reason: str | None) -> Binding | None:
    """Record the wish: from the commit on, the binding is offered to nobody. None where it is not known.

    Asked again, or on a binding that has ended, it changes nothing. One whose time is over, but that no sweep
    has met yet, ends here as expired.
    """
    row = change(
        tx,
        binding_id,
        EventKind.UNBIND_REQUESTED,
        caller,
        leaves=(*UNSETTLED, State.ACTIVE),
        guard="wanted",
        detail={"reason": reason},
        unbind_requested_at=NOW,
    )
    return (
        row
        or change(
            tx,
            binding_id,
            EventKind.EXPIRED,
            caller,
            leaves=(State.ACTIVE,),
            guard="over",
            state=State.EXPIRED,
            ended_at=bindings.c.expires_at,
        )
        or find(tx.connection, binding_id)
    )


def settle_unbound(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: Reason,
    guard_s: float = 0.0,
) -> Binding:
    """Record that the provider ended it. With `guard_s` the phones stay held that long, never longer than before.

    If the sweep was first, the binding stays expired and the phones are let go. Safe to repeat.
    """
    now = tx.instant()
    current = must_find(tx, binding_id)
    held_until = min(current.held_until, now + timedelta(seconds=guard_s))
    row = change(
        tx,
        binding_id,
        EventKind.UNBOUND,
        caller,
        leaves=(State.ACTIVE,),
        detail={"reason": reason, "ended_at": _told(now), "held_until": _told(held_until)},
        state=State.UNBOUND,
        reason=reason,
        ended_at=now,
        held_until=held_until,
    )
    if row is None and current.held_until > held_until:
        row = change(
            tx,
            binding_id,
            EventKind.UNBIND_CONFIRMED,
            caller,
            leaves=(State.EXPIRED,),
            guard="held_longer",
            detail={"reason": reason, "held_until": _told(held_until)},
            held_until=held_until,
        )
    return row or must_find(tx, binding_id)


def expire(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """End up to `limit` bindings whose time is over, the longest overdue first; returns how many.

    `ended_at` is the nominal end, not this moment. One statement on PostgreSQL, where replicas skip each
    other's rows and the state is checked again: each binding gets one `expired` event. Set-based on SQLite.
    """
    event = events.said(EventKind.EXPIRED, caller, {}) | {"due_limit": limit}
    ended = 0
    for statement, values in zip(_expiry(tx.flavour), (event, {"due_limit": limit}), strict=False):
        done = tx.connection.execute(statement, values, execution_options={"preserve_rowcount": True})
        ended = done.rowcount
    return ended


@cache
def _expiry(flavour: Flavour) -> tuple[Executable, ...]:
    """The statements of one batch: their last one's row count is how many ended."""
    due = (
        select(bindings.c.id)
        .where(_in_state(State.ACTIVE), bindings.c.expires_at <= flavour.now_once)
        .order_by(bindings.c.expires_at)
        .limit(bindparam("due_limit", type_=Integer))
    )
    ended_by_time = {"state": State.EXPIRED, "ended_at": bindings.c.expires_at} | _counted(flavour)
    if not flavour.postgres:
        due = due.order_by(bindings.c.id)  # both statements must pick the same rows
        rows = events.told(flavour, events.this_tx(flavour), bindings.c.id, bindings.c.version + 1)
        log = insert(events_table).from_select(events.WRITTEN, rows.where(bindings.c.id.in_(due)))
        return log, update(bindings).where(bindings.c.id.in_(due)).values(ended_by_time)
    # MATERIALIZED keeps LIMIT and SKIP LOCKED to one evaluation: joined in, they may run again and end more.
    locked = due.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED")
    ended = (
        update(bindings)
        .where(bindings.c.id == locked.c.id, _in_state(State.ACTIVE))
        .values(ended_by_time)
        .returning(bindings.c.change_tx, bindings.c.id, bindings.c.version)
        .cte("ended")
    )
    rows = events.told(flavour, ended.c.change_tx, ended.c.id, ended.c.version)
    return (insert(events_table).from_select(events.WRITTEN, rows),)


def _in_state(state: State) -> ColumnElement[bool]:
    """A literal, so that the partial index of that state serves also where the server plans without values."""
    return bindings.c.state == literal_column(f"'{state}'")


def doubt_unsettled(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """Move pending bindings past `settle_by` to in_doubt: their caller died or never came back."""
    detail = {"reason": Reason.NOT_SETTLED, "status": None}
    statement = _overdue(tx.flavour, State.PENDING, "settle_by", State.IN_DOUBT)
    return len(statement.run(tx, EventKind.IN_DOUBT, caller, detail, overdue_limit=limit))


def lapse(tx: Transaction, caller: Caller, *, limit: int) -> int:
    """End doubts whose longest possible life is over."""
    statement = _overdue(tx.flavour, State.IN_DOUBT, "held_until", State.LAPSED)
    return len(statement.run(tx, EventKind.LAPSED, caller, {}, overdue_limit=limit))


@cache
def _overdue(flavour: Flavour, leaves: State, deadline: str, becomes: State) -> events.Recorded:
    overdue = (
        select(bindings.c.id)
        .where(_in_state(leaves), bindings.c[deadline] <= flavour.now_once)
        .order_by(bindings.c[deadline])
        .limit(bindparam("overdue_limit", type_=Integer))
        .with_for_update(skip_locked=True)  # nothing on SQLite, where the write lock is held anyway
    )
    values: dict[str, Any] = {"state": becomes}
    values |= {"ended_at": bindings.c.held_until} if becomes.terminal else {"reason": Reason.NOT_SETTLED}
    statement = (
        update(bindings)
        .where(bindings.c.id.in_(overdue), _in_state(leaves))
        .values(values | _counted(flavour))
        .returning(bindings.c.id, bindings.c.version, bindings.c.change_tx)
    )
    return events.Recorded(flavour, statement)


def adopt(tx: Transaction, binding_id: str, caller: Caller, success: Success) -> Binding | None:
    """Settle a doubt with a row of the provider's own list; None where the doubt is over already."""
    return change(
        tx,
        binding_id,
        EventKind.ADOPTED,
        caller,
        leaves=(State.IN_DOUBT,),
        detail=success.detail(),
        state=State.ACTIVE,
        reason=Reason.ADOPTED,
        **success.columns(),
    )


def narrow(
    tx: Transaction, binding_id: str, caller: Caller, *, expires_at: datetime, detail: dict[str, Any]
) -> Binding | None:
    """Bring the end of an active binding forward: the provider's list says that it ends sooner (I6)."""
    return change(
        tx,
        binding_id,
        EventKind.DRIFTED,
        caller,
        leaves=(State.ACTIVE,),
        guard="ends_later",
        detail=detail,
        expires_at=expires_at,
    )


def must_find(tx: Transaction, binding_id: str) -> Binding:
    """The binding with this id, which is known to be there."""
    found = find(tx.connection, binding_id)
    if found is None:
        raise LookupError(f"binding {binding_id} is gone from the database, and nothing here deletes bindings")
    return found


def _told(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def to_binding(row: Sequence[Any] | Row[Any]) -> Binding:
    """A binding from its row (the columns of `COLUMNS`)."""
    values = dict(zip(FIELDS, row, strict=True))
    values["mode"] = Mode(values["mode"])
    values["state"] = State(values["state"])
    return Binding(**values)
