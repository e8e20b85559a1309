"""Settle: record the outcome of a bind or an unbind. The second transaction of each, and what reconcile concludes.

Only a definite success lowers `held_until`; a definite failure releases the phones immediately; an unknown outcome
leaves them held (I4). A success is never dropped, however late it arrives. All functions are safe to run again.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, exists, literal_column, null, or_, select, update

from bindings.domain.binding import EventKind, Reason, State
from bindings.domain.text import FreeText, optional_text
from bindings.store import end_changes, events, holds, pools
from bindings.store.bindings import (
    NOW,
    build_change,
    changed_binding,
    find,
    get,
    idempotency_key,
    in_state,
    release_owed,
    require_transition,
    transition,
)
from bindings.store.phones import forms
from bindings.store.queries import has_party
from bindings.store.reserve import conflicts, find_holding_rows
from bindings.store.schema import bindings
from bindings.store.schema import events as events_table
from bindings.store.sql import to_json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from bindings.domain import conflict
    from bindings.domain.binding import Binding, Caller
    from bindings.domain.phone import Phone
    from bindings.store.bindings import NewValues
    from bindings.store.database import SqlDialect, Transaction

RELEASE_S = 10.0  # how long the provider may still refuse a phone after a confirmed unbind
UNSETTLED = (State.PENDING, State.IN_DOUBT)
# Reasons for which certainly no binding was created. A proof of absence and an operator's statement may be wrong:
# then two bindings would have the key.
FREES_KEY = frozenset(
    {Reason.NEVER_SENT, Reason.ACCOUNT, Reason.CLOCK, Reason.IN_USE, Reason.NO_NUMBER, Reason.REQUEST}
)
# The constraint that is violated if another active binding has the provider's bindId: its name, and its columns on
# SQLite.
BIND_ID_TAKEN = ("uq_bindings_app_id_bind_id", "bindings.app_id, bindings.bind_id")


class Success(NamedTuple):
    """The data of a successful bind, and the deadlines that follow from it.

    `hold` is how long the phones are held from the answer on, `longest_hold` the intent's `held_until`. Until the
    record of the answer the process may have been suspended without noticing, so the phones are held at least for
    `hold` from then on, if that is not past `longest_hold`. None: `held_until` is known as it is.
    `takeover` is what the event says of a successor (`domain.takeover`).
    """

    bind_id: str
    middle_number_a: str
    middle_number_b: str
    sent_at: datetime
    answered_at: datetime
    expires_at: datetime
    held_until: datetime
    warn_s: int | None
    provider_expires_at: datetime | None = None
    hold: timedelta | None = None
    longest_hold: datetime | None = None
    takeover: Mapping[str, Any] | None = None

    def recorded_at(self, now: datetime) -> Success:
        """Return the success with the `held_until` that follows if it is recorded at the instant `now`."""
        if self.hold is None or self.longest_hold is None:
            return self
        return self._replace(held_until=max(self.held_until, min(now + self.hold, self.longest_hold)))

    def columns(self) -> dict[str, Any]:
        """Return the values by column, with the `warn_at` that follows from them."""
        return self.facts() | {"warn_at": warn_at(self.expires_at, self.warn_s)}

    def detail(self) -> dict[str, Any]:
        """Return the values as in an event's detail: enough to replay the row (I7), and the takeover."""
        facts = {name: to_json_value(value) for name, value in self.facts().items() if value is not None}
        return facts | dict(self.takeover or {})

    def facts(self) -> dict[str, Any]:
        """Return the values of the binding that the success sets, by column."""
        return dict(zip(_FACTS, _facts_of(self), strict=True))


# The columns that a success sets; the intent has `warn_s` already.
_FACTS = tuple(name for name in Success._fields if name not in {"hold", "longest_hold", "warn_s", "takeover"})
_facts_of = attrgetter(*_FACTS)
_NEW_FACTS = tuple(f"new_{name}" for name in _FACTS)  # the parameters of their new values


def warn_at(expires_at: datetime, warn_s: int | None) -> datetime | None:
    """Return when the `expires_soon` event of a binding is due, or None if none is; no event records it."""
    return None if warn_s is None else expires_at - timedelta(seconds=warn_s)


def activate(tx: Transaction, intent: Binding, success: Success, caller: Caller) -> Binding | None:
    """Record a success for a pending or in-doubt binding, in one statement.

    None if it is settled already, or if another active binding or a hold has its bind_id. The row is not read
    back: it is the intent and what is written here, unless its version says that it was changed in between.
    """
    if not tx.dialect.server_clock:
        success = success.recorded_at(tx.instant())
    facts = success.facts()
    values = dict(zip(_NEW_FACTS, facts.values(), strict=True))
    values["of_id"] = intent.id
    values["new_warn_at"] = warn_at(success.expires_at, success.warn_s)
    from_record = tx.dialect.server_clock and success.hold is not None
    if from_record:
        values["hold"] = success.hold
    detail = dict(success.takeover or {})
    if success.provider_expires_at is not None:
        detail["provider_expires_at"] = to_json_value(success.provider_expires_at)
    statement = _activation(tx.dialect, from_record=from_record)
    rows = statement.run(tx, EventKind.ACTIVATED, caller, detail, values)
    if not rows:
        return None
    if rows[0].version != intent.version + 1:
        return get(tx, intent.id)
    facts |= {"held_until": rows[0].held_until, "version": rows[0].version}
    return changed_binding(intent, facts | _ACTIVE)


_ACTIVE = {"state": State.ACTIVE, "provider_status": None, "reason": None}


@cache
def _activation(dialect: SqlDialect, *, from_record: bool) -> events.ChangeWithEvents:
    """Build the statement of `activate`; with `from_record`, `held_until` counts from its record."""
    require_transition(UNSETTLED, State.ACTIVE)
    return build_change(
        dialect,
        UNSETTLED,
        "bind_id_unused",
        (*_FACTS, "warn_at"),
        (("state", literal_column(f"'{State.ACTIVE}'")), ("provider_status", null()), ("reason", null())),
        from_record=from_record,
        facts=tuple(name for name in _FACTS if name != "provider_expires_at"),
        result=("version", "held_until"),
    )


def settle_success(tx: Transaction, intent: Binding, success: Success, caller: Caller) -> Binding:
    """Record a success and return the binding as recorded. A success for an ended binding is not dropped.

    It becomes a hold on both phones, with its origin and a `late_success` event, until `recover` has unbound it.
    What the provider made under the same bind_id before is over: it ends here too, and is owed no unbind. Safe to
    repeat: the same success twice changes nothing.
    """
    row = activate(tx, intent, success, caller)
    if row is None and _end_earlier_use(tx, get(tx, intent.id), success.bind_id, caller):
        row = activate(tx, intent, success, caller)
    if row is not None:
        return row
    current = get(tx, intent.id)
    proofs = None if current.bind_id == success.bind_id else holds.hold_late_success(tx, current, success, caller)
    if proofs is not None:
        detail = {"bind_id": success.bind_id, "holds": holds.details(proofs)}
        events.append(tx, intent.id, EventKind.LATE_SUCCESS, caller, detail)
        current = get(tx, intent.id)
    return current


def _end_earlier_use(tx: Transaction, intent: Binding, bind_id: str, caller: Caller) -> bool:
    """End the bindings and holds that live at the provider under this bind_id for another intent; False if none.

    One that has expired here is owed no release any more.
    """
    living = or_(in_state(State.ACTIVE), release_owed(tx.instant()))
    used = bindings.c.app_id == intent.app_id, bindings.c.bind_id == bind_id, living
    ids = tx.connection.execute(select(bindings.c.id).where(*used, bindings.c.id != intent.id)).scalars().all()
    for binding_id in ids:
        settle_unbound(tx, binding_id, caller, reason=Reason.GONE_AT_PROVIDER)
    in_force = holds.with_bind_id(tx.connection, intent.app_id, bind_id, tx.instant())
    earlier = [hold for hold in in_force if hold.origin_id != intent.id]
    return bool(ids) or bool(holds.end_holds(tx, caller, earlier, reason="bind_id_used_again"))


def settle_failed(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: str,
    status: str | None,
    detail: dict[str, Any],
) -> Binding:
    """Record a definite failure and release the phones. Safe to repeat."""
    return _fail(tx, binding_id, caller, reason=reason, status=status, detail=detail) or get(tx, binding_id)


def end_waiting(
    tx: Transaction, binding_id: str, caller: Caller, *, predecessor_ended: bool | None = None
) -> Binding | None:
    """Record that a successor that waits for its predecessor is never sent; None if it waits no more.

    Only its own caller may do so before `settle_by`: past it no caller sends it. In doubt it was never sent
    either: code of an older version takes it for an intent whose process stopped.
    """
    detail = {} if predecessor_ended is None else {"predecessor_ended": predecessor_ended}
    return _fail(tx, binding_id, caller, reason=Reason.NEVER_SENT, status=None, detail=detail, waiting=True)


def _fail(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: str,
    status: str | None,
    detail: dict[str, Any],
    waiting: bool = False,
) -> Binding | None:
    """Record a definite failure; None if the binding is settled already, or `waiting` and waits for none.

    If it is certain that no binding was created, the idempotency key may be used again; but not if an unbind was
    requested meanwhile, because a retry of the bind must not bring back what that was to end.
    """
    fail = partial(
        transition,
        tx,
        binding_id,
        EventKind.FAILED,
        caller,
        from_states=UNSETTLED,
        state=State.FAILED,
        provider_status=status,
        reason=reason,
        held_until=NOW,
        ended_at=NOW,
        waits_for=None,
    )
    detail = detail | {"reason": reason, "status": status}
    row = None
    if reason in FREES_KEY:
        row = fail(
            detail=detail | {"key_freed": True},
            condition="waiting_and_unbind_not_requested" if waiting else "unbind_not_requested",
            freed_key=idempotency_key,
            idempotency_key=None,
            duplicate_key=None,
        )
    return row or fail(detail=detail, condition="waiting" if waiting else None)


def settle_marked_absent(tx: Transaction, doubt: Binding, caller: Caller, *, because: str) -> Binding | None:
    """Mark an in-doubt binding as failed on an operator's statement; None if it is no longer in doubt.

    The caller has checked that the statement is allowed.
    """
    return transition(
        tx,
        doubt.id,
        EventKind.FAILED,
        caller,
        from_states=(State.IN_DOUBT,),
        detail={"reason": Reason.VOUCHED, "status": doubt.provider_status, "because": FreeText(because)},
        state=State.FAILED,
        reason=Reason.VOUCHED,
        held_until=NOW,
        ended_at=NOW,
        waits_for=None,
    )


def settle_no_number(tx: Transaction, intent: Binding, caller: Caller, *, status: str, message: str) -> Binding:
    """Record that the pool had no number left: the bind failed, and the pool is exhausted."""
    detail = {"said": FreeText(message)}
    failed = settle_failed(tx, intent.id, caller, reason=Reason.NO_NUMBER, status=status, detail=detail)
    pools.record_exhausted(tx, caller, app_id=intent.app_id, pool_number=intent.pool_number)
    return failed


def settle_in_use(
    tx: Transaction, intent: Binding, caller: Caller, *, status: str, policy: conflict.Policy
) -> Binding:
    """Record that the provider refused a phone as in use that was free here.

    The event names our other bindings that hold the phones (`met`: the evidence on the policy), and those of them
    that the policy forbids (`own`: the intent should have been refused here, which must never happen). If none of
    our bindings explains it, both phones are held for a while, so that the next bind is refused here; not those of
    a successor, because the provider may not have carried out the unbind of its predecessor yet.
    """
    now = min(max(tx.instant(), intent.requested_at), intent.settle_by)  # a clock that jumps must not hold longer
    phones = [intent.phone_a, intent.phone_b]
    pair = forms(tx.connection.dialect, *phones)
    rows = [
        row
        for row in find_holding_rows(tx.connection, phones, intent.scope, now)
        if row.id not in (None, intent.id, intent.replaces)
    ]
    holders = [{"id": row.id, "mode": row.mode, "state": row.state} for row in rows]
    forbidden = [
        holder for row, holder in zip(rows, holders, strict=True) if conflicts(policy, row, intent.mode, pair)
    ]
    detail = {"mode": intent.mode, "met": holders, "own": forbidden}
    failed = _fail(tx, intent.id, caller, reason=Reason.IN_USE, status=status, detail=detail)
    if failed is not None and not forbidden and intent.replaces is None:
        holds.hold_refused(tx, intent, caller, now, just_unbound=_just_unbound(tx, phones, intent.scope, now))
    return failed or get(tx, intent.id)


def _just_unbound(tx: Transaction, phones: list[Phone], scope: str, now: datetime) -> bool:
    """Return True if the provider has just confirmed our unbind of one of the phones: that is no drift."""
    since = now - timedelta(seconds=RELEASE_S)
    confirmation = exists().where(
        events_table.c.binding_id == bindings.c.id, events_table.c.kind == EventKind.UNBIND_CONFIRMED
    )
    confirmed = select(bindings.c.id).where(
        has_party(forms(tx.connection.dialect, *phones)),
        bindings.c.scope == scope,
        bindings.c.held_until > since,
        or_(
            and_(bindings.c.reason.in_((Reason.ASKED, Reason.REPLACED)), bindings.c.ended_at > since),
            # Confirmed after it had expired: only the confirmation ends its hold early.
            and_(
                bindings.c.state == State.EXPIRED,
                bindings.c.held_until <= now,
                confirmation,
            ),
        ),
    )
    return tx.connection.execute(confirmed.limit(1)).first() is not None


def settle_unknown(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: str,
    status: str | None,
    message: str,
    sent_at: datetime | None = None,
) -> Binding:
    """Record an unknown outcome. `held_until` stays: only a definite success lowers it (I4). Safe to repeat."""
    row = transition(
        tx,
        binding_id,
        EventKind.IN_DOUBT,
        caller,
        from_states=(State.PENDING,),
        detail={"reason": reason, "status": status, "said": message, "sent_at": to_json_value(sent_at)},
        state=State.IN_DOUBT,
        provider_status=status,
        reason=reason,
        sent_at=sent_at,
    )
    return row or get(tx, binding_id)


def adopt(tx: Transaction, binding_id: str, caller: Caller, success: Success) -> Binding | None:
    """Activate an in-doubt binding by a row of the provider's list. None if it is no longer in doubt."""
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
    provider_end: datetime | None,
    held_until: datetime | None,
) -> None:
    """Follow the provider's list to the safe side: end earlier (I6), hold longer (I4); never the opposite."""
    if provider_end is not None:
        detail = {"was": to_json_value(binding.expires_at)}
        narrowed = end_changes.narrow(tx, binding.id, caller, provider_end=provider_end, detail=detail)
        if narrowed is not None and narrowed.expires_at is not None:
            move_warning(tx, binding.id, warn_at(narrowed.expires_at, binding.warn_s))
    if held_until is not None:
        transition(
            tx,
            binding.id,
            EventKind.DRIFTED,
            caller,
            from_states=(State.ACTIVE,),
            condition="held_shorter",
            detail={"held_until": to_json_value(held_until), "was": to_json_value(binding.held_until)},
            held_until=held_until,
        )


def move_warning(tx: Transaction, binding_id: str, due_at: datetime | None) -> None:
    """Move the `expires_soon` event of a binding whose end has moved; one that was written is not due again."""
    not_written = bindings.c.id == binding_id, bindings.c.warn_at.is_not(None)
    tx.connection.execute(update(bindings).where(*not_written).values(warn_at=due_at))


def request_unbind(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    reason: str | None,
    *,
    in_doubt: Callable[[datetime], bool] = lambda _: False,
) -> Binding | None:
    """Record the request to unbind: from the commit on, no lookup returns the binding. None if it is unknown.

    A repeated request, or one for an ended binding, changes nothing. A binding that is past its end but not
    expired by the job yet is expired here, unless `in_doubt` returns True for the clock's reading: then it is to
    be unbound like any other.
    """
    row = _request_unbind(tx, binding_id, caller, reason, condition="unbind_possible")
    if row is None and in_doubt(tx.instant()):
        row = _request_unbind(tx, binding_id, caller, reason, condition="unbind_not_requested")
    elif row is None:
        row = expire_past_end(tx, binding_id, caller)
    return row or find(tx.connection, binding_id)


def expire_past_end(tx: Transaction, binding_id: str, caller: Caller) -> Binding | None:
    """Expire an active binding that is past its end and not expired by the job yet; None if it is not."""
    return transition(
        tx,
        binding_id,
        EventKind.EXPIRED,
        caller,
        from_states=(State.ACTIVE,),
        condition="past_end",
        state=State.EXPIRED,
        ended_at=bindings.c.expires_at,
    )


def _request_unbind(
    tx: Transaction, binding_id: str, caller: Caller, reason: str | None, *, condition: str
) -> Binding | None:
    return transition(
        tx,
        binding_id,
        EventKind.UNBIND_REQUESTED,
        caller,
        from_states=(*UNSETTLED, State.ACTIVE),
        condition=condition,
        detail={"reason": optional_text(reason)},
        unbind_requested_at=NOW,
    )


def settle_unbound(
    tx: Transaction,
    binding_id: str,
    caller: Caller,
    *,
    reason: Reason,
    ended_at: datetime | None = None,
    guard_s: float = 0.0,
) -> Binding:
    """Record that the provider ended a binding at `ended_at` (None: now), or at the end of its longest lifetime.

    The phones stay held for `guard_s` from then on, never longer than before.
    If the binding has expired, it stays expired, its phones are released and no release is owed. Safe to repeat.
    """
    current = get(tx, binding_id)
    now = min(max(ended_at or tx.instant(), current.requested_at), current.held_until)
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
    if row is None:
        row = _confirm_unbind(tx, get(tx, binding_id), caller, reason=reason, held_until=held_until)
    return row or get(tx, binding_id)


def _confirm_unbind(
    tx: Transaction, expired: Binding, caller: Caller, *, reason: Reason, held_until: datetime
) -> Binding | None:
    """Record that an expired binding has ended at the provider too. None if it changes nothing."""
    held = min(expired.held_until, held_until)
    detail = {"reason": reason, "held_until": to_json_value(held)}
    values: NewValues = {"held_until": held}
    if expired.provider_expires_at is not None:
        detail["provider_expires_at"] = to_json_value(expired.ended_at)
        values["provider_expires_at"] = expired.ended_at
    return transition(
        tx,
        expired.id,
        EventKind.UNBIND_CONFIRMED,
        caller,
        from_states=(State.EXPIRED,),
        condition="held_longer_or_release_owed",
        detail=detail,
        **values,
    )
