"""Settle: record what came of a bind or an unbind. The second transaction of each, and what reconcile concludes.

Only a clear success lowers `held_until`; a definite refusal frees the phones at once; an unclear answer leaves
them held (I4). A success is never dropped, however late it comes. All functions are safe to run again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from bindings.domain.binding import EventKind, Reason, State
from bindings.store import events, holds, pools
from bindings.store.bindings import NOW, find, get, to_json_value, transition
from bindings.store.reserve import conflicts, find_holding_rows
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain import conflict
    from bindings.domain.binding import Binding, Caller
    from bindings.store.database import Transaction

UNSETTLED = (State.PENDING, State.IN_DOUBT)
# The provider gave a bindId that another binding has already: by name, and as SQLite tells it.
BIND_ID_TAKEN = ("uq_bindings_app_id_bind_id", "bindings.app_id, bindings.bind_id")


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
    warn_s: int | None

    def columns(self) -> dict[str, Any]:
        """The facts by column, and what follows from them."""
        return self._facts() | {"warn_at": warn_at(self.expires_at, self.warn_s)}

    def detail(self) -> dict[str, str]:
        """The facts as an event tells them: enough to replay the row (I7)."""
        return {name: to_json_value(value) for name, value in self._facts().items()}

    def _facts(self) -> dict[str, Any]:
        names = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in names if name != "warn_s"}  # the intent's, known already


def warn_at(expires_at: datetime, warn_s: int | None) -> datetime | None:
    """When the `expires_soon` event of a binding is due: derived, so that no event need tell it."""
    return None if warn_s is None else expires_at - timedelta(seconds=warn_s)


def activate(tx: Transaction, binding_id: str, success: Success, caller: Caller) -> Binding | None:
    """Record the provider's yes to a binding that waits for it, in one statement; None where it is settled."""
    return transition(
        tx,
        binding_id,
        EventKind.ACTIVATED,
        caller,
        from_states=UNSETTLED,
        detail=success.detail(),
        state=State.ACTIVE,
        provider_status=None,
        reason=None,
        **success.columns(),
    )


def settle_success(tx: Transaction, binding_id: str, success: Success, caller: Caller) -> Binding:
    """Record the provider's yes. A yes for a binding that ended meanwhile is never dropped.

    It is kept as a hold on both phones, with its origin and a `late_success` event, until `recover` has
    unbound it. Safe to repeat: the same yes twice changes nothing.
    """
    row = activate(tx, binding_id, success, caller)
    if row is not None:
        return row
    current = get(tx, binding_id)
    if current.bind_id != success.bind_id and holds.hold_late_success(tx, current, success):
        events.append(tx, binding_id, EventKind.LATE_SUCCESS, caller, {"bind_id": success.bind_id})
        current = get(tx, binding_id)
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
    row = transition(
        tx,
        binding_id,
        EventKind.FAILED,
        caller,
        from_states=UNSETTLED,
        detail=detail | {"reason": reason, "status": status},
        state=State.FAILED,
        provider_status=status,
        reason=reason,
        held_until=NOW,
        ended_at=NOW,
    )
    return row or get(tx, binding_id)


def settle_marked_absent(tx: Transaction, doubt: Binding, caller: Caller, *, because: str) -> Binding | None:
    """End a doubt on a person's word; None where it is none any more. The caller has checked that it may be."""
    return transition(
        tx,
        doubt.id,
        EventKind.FAILED,
        caller,
        from_states=(State.IN_DOUBT,),
        detail={"reason": Reason.VOUCHED, "status": doubt.provider_status, "because": because},
        state=State.FAILED,
        reason=Reason.VOUCHED,
        held_until=NOW,
        ended_at=NOW,
    )


def settle_no_number(tx: Transaction, intent: Binding, caller: Caller, *, status: str, said: str) -> Binding:
    """Record that the pool had no number left: nothing came into being, and the pool is low."""
    detail = {"said": said}
    failed = settle_failed(tx, intent.id, caller, reason=Reason.NO_NUMBER, status=status, detail=detail)
    pools.record_exhausted(tx, caller, app_id=intent.app_id, pool_number=intent.pool_number)
    return failed


def settle_in_use(
    tx: Transaction, intent: Binding, caller: Caller, *, status: str, policy: conflict.Policy
) -> Binding:
    """Record that the provider refused a phone that was free here.

    The event names what of ours stood beside it (`met`: the evidence about the policy), and of that what the
    policy itself forbids (`own`: the intent should have been refused here, which must never happen). Where
    nothing of ours explains it, both phones are held for a while, so that the next bind is refused here.
    """
    now = tx.instant()
    phones = [intent.phone_a, intent.phone_b]
    pair = {phone.key for phone in phones}
    rows = [
        row
        for row in find_holding_rows(tx.connection, phones, intent.scope, now)
        if row.id not in (None, intent.id)
    ]
    met = [{"id": row.id, "mode": row.mode, "state": row.state} for row in rows]
    own = [told for row, told in zip(rows, met, strict=True) if conflicts(policy, row, intent.mode, pair)]
    failed = transition(
        tx,
        intent.id,
        EventKind.FAILED,
        caller,
        from_states=UNSETTLED,
        detail={"reason": Reason.IN_USE, "status": status, "mode": intent.mode, "met": met, "own": own},
        state=State.FAILED,
        provider_status=status,
        reason=Reason.IN_USE,
        held_until=now,
        ended_at=now,
    )
    if failed is not None and not own:
        holds.hold_refused(tx, intent, caller, now)
    return failed or get(tx, intent.id)


def settle_unknown(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: str,
    status: str | None,
    said: str,
    sent_at: datetime | None = None,
) -> Binding:
    """Record that nobody knows. `held_until` stays: only a clear yes may lower it (I4). Safe to repeat."""
    row = transition(
        tx,
        binding_id,
        EventKind.IN_DOUBT,
        caller,
        from_states=(State.PENDING,),
        detail={"reason": reason, "status": status, "said": said, "sent_at": to_json_value(sent_at)},
        state=State.IN_DOUBT,
        provider_status=status,
        reason=reason,
        sent_at=sent_at,
    )
    return row or get(tx, binding_id)


def adopt(tx: Transaction, binding_id: str, caller: Caller, success: Success) -> Binding | None:
    """Settle a doubt with a row of the provider's own list; None where the doubt is over already."""
    return transition(
        tx,
        binding_id,
        EventKind.ADOPTED,
        caller,
        from_states=(State.IN_DOUBT,),
        detail=success.detail(),
        state=State.ACTIVE,
        reason=Reason.ADOPTED,
        **success.columns(),
    )


def apply_drift(
    tx: Transaction,
    binding: Binding,
    caller: Caller,
    *,
    expires_at: datetime | None,
    held_until: datetime | None,
) -> None:
    """Follow the provider's list to the safe side: end sooner (I6), hold longer (I4); never the other way."""
    if expires_at is not None:
        transition(
            tx,
            binding.id,
            EventKind.DRIFTED,
            caller,
            from_states=(State.ACTIVE,),
            condition="ends_later",
            detail={"expires_at": to_json_value(expires_at), "was": to_json_value(binding.expires_at)},
            expires_at=expires_at,
        )
        move_warning(tx, binding.id, warn_at(expires_at, binding.warn_s))
    if held_until is not None:
        transition(
            tx,
            binding.id,
            EventKind.DRIFTED,
            caller,
            from_states=(State.ACTIVE, State.EXPIRED),
            condition="held_shorter",
            detail={"held_until": to_json_value(held_until), "was": to_json_value(binding.held_until)},
            held_until=held_until,
        )


def move_warning(tx: Transaction, binding_id: str, due_at: datetime | None) -> None:
    """Move the `expires_soon` event of a binding whose end was moved; one that was written is not due again."""
    not_written = bindings.c.id == binding_id, bindings.c.warn_at.is_not(None)
    tx.connection.execute(update(bindings).where(*not_written).values(warn_at=due_at))


def request_unbind(tx: Transaction, binding_id: str, caller: Caller, reason: str | None) -> Binding | None:
    """Record the wish: from the commit on, the binding is offered to nobody. None where it is not known.

    Asked again, or on a binding that has ended, it changes nothing. One whose time is over, but that no sweep
    has met yet, ends here as expired.
    """
    row = transition(
        tx,
        binding_id,
        EventKind.UNBIND_REQUESTED,
        caller,
        from_states=(*UNSETTLED, State.ACTIVE),
        condition="wanted",
        detail={"reason": reason},
        unbind_requested_at=NOW,
    )
    return (
        row
        or transition(
            tx,
            binding_id,
            EventKind.EXPIRED,
            caller,
            from_states=(State.ACTIVE,),
            condition="over",
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
    current = get(tx, binding_id)
    held_until = min(current.held_until, now + timedelta(seconds=guard_s))
    row = transition(
        tx,
        binding_id,
        EventKind.UNBOUND,
        caller,
        from_states=(State.ACTIVE,),
        detail={"reason": reason, "ended_at": to_json_value(now), "held_until": to_json_value(held_until)},
        state=State.UNBOUND,
        reason=reason,
        ended_at=now,
        held_until=held_until,
    )
    if row is None and current.held_until > held_until:
        row = transition(
            tx,
            binding_id,
            EventKind.UNBIND_CONFIRMED,
            caller,
            from_states=(State.EXPIRED,),
            condition="held_longer",
            detail={"reason": reason, "held_until": to_json_value(held_until)},
            held_until=held_until,
        )
    return row or get(tx, binding_id)
