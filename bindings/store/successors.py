"""Successors: reserve one beside the binding that it replaces, and clear it to be sent.

Two transactions. The first ends the predecessor's service and records the successor as a pending binding that
waits: both hold the phones, so they are never free in between. The second records the confirmed end of the
predecessor and lets the successor be sent. One that waits past its `settle_by` was never sent; it is ended
(`settle.end_waiting`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.acts import RestoreCause
from bindings.domain.binding import EventKind, State
from bindings.store import account, pools, reserve, rollback_detection, settle
from bindings.store.bindings import NOW, find, get, transition
from bindings.store.phone_keys import KeyNumbers
from bindings.store.phones import require_keys
from bindings.store.reserve import Conflict, FullScanRequired, Replayed
from bindings.store.sql import to_json_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.domain.binding import Binding, BindRequest, Caller
    from bindings.store.bindings import NewValues
    from bindings.store.database import Transaction
    from bindings.store.reserve import BindLimits
    from bindings.store.rollback_detection import CommittedVersion

EXHAUSTED_FOR = timedelta(seconds=60)  # after a -41 no replace ends a binding for a number of that pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The takeover is recorded: the predecessor is offered no more, and the successor waits for its end."""

    successor: Binding
    predecessor: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class NotReplaceable:
    """The binding is not one that can be replaced; nothing was written."""

    binding: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class HasSuccessor:
    """The binding has a successor that has not failed; nothing was written."""

    successor: Binding


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolExhausted:
    """The provider had no number left in the pool less than a minute ago; nothing was written."""

    retry_after_s: int


class PredecessorChanged(Exception):
    """The predecessor has changed since it was read; the transaction is rolled back, and may run again."""


Outcome = Begun | NotReplaceable | HasSuccessor | PoolExhausted | Replayed | Conflict | FullScanRequired


def begin(
    tx: Transaction,
    successor_id: str,
    request: BindRequest,
    limits: BindLimits,
    caller: Caller,
    *,
    predecessor: Binding,
    wait_s: float,
    force: bool,
    committed: CommittedVersion | None,
    verify_clock: Callable[[datetime], None],
) -> Outcome:
    """Record the takeover, or return why it cannot be; then nothing is lost yet.

    The phones of both bindings are locked, and the request is checked against everything except the predecessor.
    The successor waits for at most `wait_s` seconds. It and its key belong to the actor of the predecessor: so an
    application still sees its order after an admin has replaced a party. A predecessor that is in use is kept if
    the pool had no number left just now, unless `force` is set.

    Safe to repeat with the same `successor_id`, as `reserve.reserve`. Raises `PredecessorChanged`.
    """
    phones = (request.phone_a, request.phone_b, predecessor.phone_a, predecessor.phone_b)
    now, (scan_owed_since, index_key, data_key, version, refused_at) = reserve.lock_phones(
        tx,
        limits.scope,
        phones,
        (*account.BEFORE_INTENT, rollback_detection.VERSION, pools.REFUSED_AT),
        known_id=successor_id if committed is None else committed.id,
        of_app_id=request.app_id,
        of_pool_number=request.pool_number,
    )
    numbers = KeyNumbers(index_key, data_key)
    require_keys(tx.connection.dialect, numbers)
    if rollback_detection.was_rolled_back(tx, committed, version):
        account.require_full_scan(tx, caller, RestoreCause.ROLLED_BACK)
        return FullScanRequired(rollback_detected=True)
    if tx.attempt > 1 and (earlier := find(tx.connection, successor_id)) is not None:
        return Begun(successor=earlier, predecessor=get(tx, predecessor.id))
    verify_clock(now)
    owner = replace(caller, actor=predecessor.actor)
    if (replayed := _replay(tx, request, caller, now, owner=owner)) is not None:
        return replayed
    current = _expired_if_past_end(tx, get(tx, predecessor.id), caller, now)
    is_in_use = current.state is State.ACTIVE and current.unbind_requested_at is None
    refusal = _why_not_replaceable(tx, current, caller, now) or _why_not_now(
        tx,
        request,
        limits,
        now,
        is_scan_owed=scan_owed_since is not None,
        refused_at=refused_at if is_in_use and not force else None,  # one that has ended cannot be lost
    )
    if refusal is not None:
        return refusal
    wait_until = now + timedelta(seconds=wait_s)
    successor = replace(
        reserve.new_intent(successor_id, request, limits, owner, now),
        waits_for=current.id,
        send_by=now,
        settle_by=wait_until,
        held_until=wait_until,
    )
    return _record(tx, successor, request, caller, predecessor=current, numbers=numbers)


def _record(
    tx: Transaction,
    successor: Binding,
    request: BindRequest,
    caller: Caller,
    *,
    predecessor: Binding,
    numbers: KeyNumbers,
) -> Begun | Replayed:
    """Record the intent of the successor, and link the predecessor to it. Raises `PredecessorChanged`."""
    recorded = reserve.record(tx, successor, request, caller, numbers)
    if isinstance(recorded, Replayed):
        return recorded
    linked = _link(tx, predecessor, successor.id, caller)
    if recorded is None or linked is None:
        raise PredecessorChanged
    return Begun(successor=successor, predecessor=linked)


def _replay(
    tx: Transaction, request: BindRequest, caller: Caller, now: datetime, *, owner: Caller
) -> Replayed | None:
    """Return the earlier binding of the request's key; one that waits past its time is ended and frees the key."""
    replayed = reserve.replay(tx.connection, request, owner.actor)
    if replayed is not None and _end_overdue(tx, replayed.binding, caller, now) is not None:
        return reserve.replay(tx.connection, request, owner.actor)
    return replayed


def _end_overdue(tx: Transaction, successor: Binding, caller: Caller, now: datetime) -> Binding | None:
    """End a successor that still waits past its `settle_by`, and return it; None if it does not."""
    return settle.end_waiting(tx, successor.id, caller) if successor.has_waited_too_long(now) else None


def _expired_if_past_end(tx: Transaction, binding: Binding, caller: Caller, now: datetime) -> Binding:
    is_past_end = binding.expires_at is not None and binding.expires_at <= now
    if binding.state is State.ACTIVE and binding.unbind_requested_at is None and is_past_end:
        return settle.expire_past_end(tx, binding.id, caller) or get(tx, binding.id)
    return binding


def _why_not_replaceable(
    tx: Transaction, binding: Binding, caller: Caller, now: datetime
) -> NotReplaceable | HasSuccessor | None:
    """Return why the binding cannot have a successor now, or None."""
    if binding.replaced_by is not None:
        successor = find(tx.connection, binding.replaced_by)
        if successor is not None:
            successor = _end_overdue(tx, successor, caller, now) or successor
            if successor.state is not State.FAILED:
                return HasSuccessor(successor=successor)
    return None if binding.is_replaceable else NotReplaceable(binding=binding)


def _why_not_now(
    tx: Transaction,
    request: BindRequest,
    limits: BindLimits,
    now: datetime,
    *,
    is_scan_owed: bool,
    refused_at: datetime | None,
) -> FullScanRequired | Conflict | PoolExhausted | None:
    """Return why the successor would not be made if it were sent now, as far as is known; or None."""
    if is_scan_owed:
        return FullScanRequired(rollback_detected=False)
    holders = reserve.holders(tx.connection, request, limits, now)
    if holders:
        return Conflict(holder=holders[0])
    if refused_at is not None and now < refused_at + EXHAUSTED_FOR:
        return PoolExhausted(retry_after_s=reserve.seconds_until(refused_at + EXHAUSTED_FOR, now))
    return None


def _link(tx: Transaction, predecessor: Binding, successor_id: str, caller: Caller) -> Binding | None:
    """Link the predecessor to its successor; an active one is offered no more from then on."""
    values: NewValues = {"replaced_by": successor_id}
    detail: dict[str, Any] = {"replaced_by": successor_id}
    condition = None
    if predecessor.state is State.ACTIVE and predecessor.unbind_requested_at is None:
        values["unbind_requested_at"] = NOW
        detail["unbind_requested"] = True
        condition = "unbind_possible"
    return transition(
        tx,
        predecessor.id,
        EventKind.REPLACED,
        caller,
        from_states=(predecessor.state,),
        condition=condition,
        detail=detail,
        **values,
    )


def clear(
    tx: Transaction,
    successor: Binding,
    settle_predecessor: Callable[[datetime], None],
    limits: BindLimits,
    caller: Caller,
    *,
    in_doubt: Callable[[datetime], bool],
) -> Binding:
    """Record the end of the predecessor, and let the successor be sent; return the successor as it is then.

    It is pending and waits no more; or it has failed, because it was to be unbound meanwhile or has waited too
    long; or it still waits, because the clock is `in_doubt`. The clock is read after the locks, as in `reserve`: a
    COMMIT that takes long must not let another bind pass the `held_until` that has just ended.

    Only the caller that `begin` returned `Begun` to may call it; safe to repeat for that one.
    """
    phones = (successor.phone_a, successor.phone_b)
    now, _ = reserve.lock_phones(tx, limits.scope, phones, ())
    settle_predecessor(now)
    current = get(tx, successor.id)
    if current.waits_for is None or in_doubt(now):  # without `waits_for`: an earlier attempt has committed
        return current
    deadlines: dict[str, Any] = limits.lifetimes(now, successor.provider_expire_s)
    cleared = transition(
        tx,
        successor.id,
        EventKind.CLEARED,
        caller,
        from_states=(State.PENDING,),
        condition="waiting_in_time",
        detail={name: to_json_value(value) for name, value in deadlines.items()},
        waits_for=None,
        **deadlines,
    )
    return cleared or settle.end_waiting(tx, successor.id, caller, predecessor_ended=True) or get(tx, successor.id)
