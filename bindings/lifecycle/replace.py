"""Replace: end a binding and let a successor take over, so that the phones are never free in between.

The provider has no such call. The first transaction takes the predecessor out of service and records the successor
as a pending binding that waits; then the predecessor is unbound; the second transaction records that and clears
the successor, which is sent like any bind. Only the caller that committed the first one goes on. If it stops,
`recover` ends the successor once it has waited too long: it was never sent. No SQL and no HTTP here.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, assert_never

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.acts import RestoreCause
from bindings.domain.binding import Reason, State
from bindings.failpoints import hit
from bindings.lifecycle.bind import admit, full_scan_required, log_rollback, send
from bindings.lifecycle.clocks import Predecessor, SendClock
from bindings.lifecycle.extend import why_not_active
from bindings.lifecycle.older_versions import SUCCESSORS
from bindings.lifecycle.refusals import record_conflict
from bindings.lifecycle.resolution_times import RetryAfter
from bindings.lifecycle.storable import require_storable
from bindings.lifecycle.unbind import call_provider, confirmation
from bindings.provider.outcome import Refusal, Refused, UnbindNotFound, UnbindSucceeded
from bindings.store import account, holds, queries, reserve, settle, successors
from bindings.store.bindings import BindingLost, find
from bindings.validation.requests import Replacement, successor_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding, BindRequest
    from bindings.lifecycle.bind import BindResult
    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient
    from bindings.store.database import Transaction
    from bindings.store.holds import Hold

ATTEMPTS = 3
STEPS_S = 5.0  # for the two transactions, besides the call that ends the predecessor
FIRST_PAUSE_S = 0.2  # between two calls for the end of the predecessor; doubled each time


@dataclass(frozen=True, kw_only=True, slots=True)
class _Takeover:
    """A recorded takeover; it is over at `ends_at`, by the monotonic clock."""

    successor: Binding
    predecessor: Binding
    ends_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _ConfirmedEnd:
    """How the end of the predecessor is recorded; `reason` None: it had ended, and no call was made."""

    reason: Reason | None
    guard_s: float = 0.0
    holds: Sequence[Hold] = ()
    ended_at: datetime | None = None  # None: when it is recorded


def replace_binding(runtime: Runtime, binding_id: str, changes: Replacement, *, actor: str | None) -> BindResult:
    """End the binding, bind its successor, and return that; or replay the idempotency key.

    `actor`: only a binding that this actor requested exists (None: any). Safe to repeat with an idempotency key.
    Errors that have `predecessor_ended` come after the predecessor was taken out of service.
    """
    predecessor = runtime.database.read(find, binding_id)
    if predecessor is None or actor not in (None, predecessor.actor):
        raise errors.NotFound(binding_id=binding_id)
    request = successor_request(predecessor, changes)

    with RetryAfter(runtime):
        try:
            return _replace_or_replay(runtime, request, predecessor, force=changes.force)
        except errors.OutcomeUnknown as error:
            if not error.replayed or error.binding.waits_for is None:
                raise
        # The call that made this successor has stopped. Its time is over: it was never sent, and is ended now.
        return _replace_or_replay(runtime, request, predecessor, force=changes.force)


def _replace_or_replay(runtime: Runtime, request: BindRequest, predecessor: Binding, *, force: bool) -> BindResult:
    def call(runtime: Runtime, client: ProviderClient, request: BindRequest) -> Binding | reserve.Replayed:
        return _replace(runtime, client, request, predecessor, force=force)

    try:
        return admit(runtime, request, call, key_owner=predecessor.actor)
    except errors.BindingsError as error:
        if error.replayed:
            error.predecessor_ended = _has_ended(runtime, predecessor.id)
            if isinstance(error, errors.ProviderUnreachable) and not error.predecessor_ended:
                raise _unconfirmed(runtime, predecessor, replayed=True) from error  # what the first caller met
        raise


def _has_ended(runtime: Runtime, binding_id: str) -> bool:
    """Return whether a binding has certainly ended at the provider; False if the database cannot be read."""
    with suppress(errors.Busy):
        current = runtime.database.read(find, binding_id)
        now = runtime.clocks.trusted_instant(runtime.database.clock())
        return current is not None and current.state.terminal and not current.is_release_owed(now)
    return False


def _replace(
    runtime: Runtime, client: ProviderClient, request: BindRequest, predecessor: Binding, *, force: bool
) -> Binding | reserve.Replayed:
    require_storable(runtime.database, request)
    runtime.older_versions.require_none(SUCCESSORS)
    # One that is in use would be lost for an unbind that is refused.
    is_in_use = predecessor.state is State.ACTIVE and predecessor.unbind_requested_at is None
    with runtime.admission.unbind_accepted() if is_in_use else nullcontext():
        takeover = _begin(runtime, request, predecessor, force=force)
        if isinstance(takeover, reserve.Replayed):
            return takeover
        end = None
        with suppress(errors.Busy):  # it cannot be read whether the predecessor has ended
            end = _end_predecessor(runtime, client, takeover)
    if end is None:
        raise _not_confirmed(runtime, takeover)
    send_clock = _clear(runtime, takeover, end)
    try:
        return send(runtime, client, request, send_clock)
    except errors.BindingsError as error:
        error.predecessor_ended = True
        raise


# Begin.


def _begin(
    runtime: Runtime, request: BindRequest, predecessor: Binding, *, force: bool
) -> _Takeover | reserve.Replayed:
    """Commit the takeover; raise the error of what forbids it, before anything is lost."""
    wait_s = runtime.settings.provider_timeout_s + STEPS_S
    began_at, begun = _commit_begin(runtime, request, predecessor, wait_s=wait_s, force=force)
    hit("replace.after_begin")
    match begun:
        case successors.Begun(successor=successor, predecessor=current):
            runtime.rollback_detector.remember(successor)
            return _Takeover(successor=successor, predecessor=current, ends_at=began_at + wait_s)
        case reserve.Replayed():
            return begun
        case reserve.Conflict(holder=holder):
            raise record_conflict(runtime, request, holder)
        case reserve.FullScanRequired(rollback_detected=rollback_detected):
            raise full_scan_required(runtime, rollback_detected=rollback_detected)
        case successors.NotReplaceable(binding=binding):
            raise errors.NotActive(why_not_active(binding), binding_id=binding.id)
        case successors.HasSuccessor(successor=successor):
            raise errors.AlreadyReplaced(binding_id=predecessor.id, successor_id=successor.id)
        case successors.PoolExhausted(retry_after_s=retry_after_s):
            message = "the pool had no middle number available less than a minute ago; nothing was replaced"
            raise errors.NoMiddleNumber(message, retry_after_s=retry_after_s)
        case _:
            assert_never(begun)


def _commit_begin(
    runtime: Runtime, request: BindRequest, predecessor: Binding, *, wait_s: float, force: bool
) -> tuple[float, successors.Outcome]:
    """Run the first transaction; return when it began, by the monotonic clock, and what it returned."""
    successor_id = str(uuid7())
    attempts_began: list[float] = []
    may_have_begun = False
    committed = runtime.rollback_detector.newest()

    def work(tx: Transaction) -> successors.Outcome:
        nonlocal may_have_begun
        attempts_began.append(tx.started_at)
        begun = successors.begin(
            tx,
            successor_id,
            request,
            runtime.limits,
            runtime.caller,
            predecessor=predecessor,
            wait_s=wait_s,
            force=force,
            committed=committed,
            verify_clock=runtime.clocks.verify,
        )
        may_have_begun = may_have_begun or isinstance(begun, successors.Begun)
        hit("replace.begin_in_transaction")
        return begun

    hit("replace.before_begin")
    try:
        begun = _repeat_if_changed(runtime, work)
    except BindingLost as error:  # deleted since it was read
        raise errors.NotFound(binding_id=predecessor.id) from error
    except errors.Busy as busy:
        raise _commit_unknown(busy, predecessor, wait_s) if may_have_begun else busy from None
    return attempts_began[0], begun


def _commit_unknown(busy: errors.Busy, predecessor: Binding, wait_s: float) -> errors.Busy:
    """Return the error of a takeover whose COMMIT had no answer; a successor that it made is never sent."""
    message = (
        f"it is not known whether the replace has begun ({busy}): the binding may not be offered any more, and"
        " nothing was sent"
    )
    error = errors.Busy(message, binding_id=predecessor.id, retry_after_s=ceil(wait_s))
    error.predecessor_ended = False
    return error


def _repeat_if_changed(runtime: Runtime, work: Callable[[Transaction], successors.Outcome]) -> successors.Outcome:
    for _ in range(ATTEMPTS):
        with suppress(successors.PredecessorChanged):
            return runtime.database.write(work, attempt_timeout_s=runtime.database.timeout_s)
    raise errors.Busy("other calls keep changing this binding; nothing was replaced")


# End the predecessor.


def _end_predecessor(runtime: Runtime, client: ProviderClient, takeover: _Takeover) -> _ConfirmedEnd | None:
    """Have the provider end the predecessor; None if that is not confirmed in the time of the takeover."""
    current, pause_s = takeover.predecessor, FIRST_PAUSE_S
    while True:
        if current.state.terminal:
            known_end = _known_end(runtime, current)
            if known_end is not None:
                return known_end
        outcome = call_provider(client, app_id=current.app_id, bind_id=str(current.bind_id))
        hit("replace.after_unbind")
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            reason, guard_s = confirmation(runtime, current, outcome)
            return _ConfirmedEnd(reason=reason, guard_s=guard_s, holds=_holds_of(runtime, current))
        is_hopeless = isinstance(outcome, Refused) and outcome.refusal is Refusal.ACCOUNT
        if is_hopeless or runtime.clock.monotonic() + pause_s >= takeover.ends_at:
            return None
        runtime.clock.sleep(pause_s)
        pause_s *= 2
        current = runtime.database.read(find, current.id) or current


def _known_end(runtime: Runtime, ended: Binding) -> _ConfirmedEnd | None:
    """Return the end of a binding that certainly is not at the provider any more; None if it may be."""
    if runtime.database.read(queries.is_bind_id_used_again, ended):
        return _ConfirmedEnd(reason=Reason.GONE_AT_PROVIDER, ended_at=ended.ended_at)
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    may_live = ended.state is State.EXPIRED and ended.held_until > now
    if may_live or runtime.database.read(holds.of_ended_binding, ended, now):
        return None
    return _ConfirmedEnd(reason=None, ended_at=ended.ended_at)


def _holds_of(runtime: Runtime, binding: Binding) -> Sequence[Hold]:
    """Return the holds of what the provider still had of a binding that has ended here."""
    if not binding.state.terminal:
        return ()
    return runtime.database.read(holds.of_ended_binding, binding, runtime.database.clock())


def _not_confirmed(runtime: Runtime, takeover: _Takeover) -> errors.OutcomeUnknown:
    """End the successor unsent, and return the error that names the predecessor."""

    def work(tx: Transaction) -> Binding | None:
        ended = settle.end_waiting(tx, takeover.successor.id, runtime.caller, predecessor_ended=False)
        hit("replace.end_waiting_in_transaction")
        return ended

    with suppress(errors.Busy):  # otherwise `recover` ends it
        runtime.database.write(work)
    return _unconfirmed(runtime, takeover.predecessor)


def _unconfirmed(runtime: Runtime, predecessor: Binding, *, replayed: bool = False) -> errors.OutcomeUnknown:
    """Return the error of a replace whose predecessor may live on at the provider; it names that one."""
    current, is_repeated = predecessor, not predecessor.state.terminal
    with suppress(errors.Busy):
        current = runtime.database.read(find, predecessor.id) or predecessor
        now = runtime.clocks.trusted_instant(runtime.database.clock())
        is_repeated = not current.state.terminal or current.is_release_owed(now)
    what_happens = (
        "its unbind is recorded and will be repeated"
        if is_repeated
        else "its phones stay held until it must have ended there"
    )
    message = (
        f"the provider has not confirmed the end of the binding to be replaced: {what_happens}; its successor was"
        " not sent"
    )
    error = errors.OutcomeUnknown(message, binding=current)
    error.predecessor_ended, error.replayed = False, replayed
    return error


# Clear.


def _clear(runtime: Runtime, takeover: _Takeover, end: _ConfirmedEnd) -> SendClock:
    """Record the end of the predecessor, and let the successor be sent; raises if it may not be any more."""
    attempts_began: list[float] = []

    def work(tx: Transaction) -> Binding:
        attempts_began.append(tx.started_at)
        cleared = successors.clear(
            tx,
            takeover.successor,
            partial(_record_end, runtime, tx, takeover.predecessor, end),
            runtime.limits,
            runtime.caller,
            in_doubt=runtime.clocks.in_doubt,
        )
        hit("replace.clear_in_transaction")
        return cleared

    try:
        successor = runtime.database.write(work, attempt_timeout_s=runtime.database.timeout_s)
    except BindingLost as error:
        raise _handle_rollback(runtime, takeover) from error
    except errors.Busy as busy:
        message = f"the predecessor has ended, but that could not be recorded ({busy}); its successor was not sent"
        raise _unsent(errors.Busy(message, binding_id=takeover.successor.id)) from busy
    hit("replace.after_clear")
    _require_cleared(successor)
    runtime.rollback_detector.remember(successor)
    ended_at = end.ended_at or successor.requested_at
    return SendClock(
        intent=successor,
        before=attempts_began[0],
        after=runtime.clock.monotonic(),
        predecessor=Predecessor(binding=takeover.predecessor, ended_at=ended_at),
    )


def _record_end(
    runtime: Runtime, tx: Transaction, predecessor: Binding, end: _ConfirmedEnd, now: datetime
) -> None:
    """Record the end of the predecessor, and of what the provider still had of it, at the reading `now`."""
    if end.reason is not None:
        settle.settle_unbound(
            tx,
            predecessor.id,
            runtime.caller,
            reason=end.reason,
            ended_at=runtime.clocks.trusted_instant(now),
            guard_s=end.guard_s,
        )
    if end.holds:
        holds.end_holds(tx, runtime.caller, end.holds, reason="unbound", guard_s=end.guard_s)


def _require_cleared(successor: Binding) -> None:
    """Raise the error of a successor that may not be sent, though its predecessor has ended."""
    if successor.waits_for is not None and not successor.state.terminal:  # an older version may make it lapsed
        message = (
            "the predecessor has ended; its successor was not sent, because the clock of the database is in doubt"
        )
        raise _unsent(errors.ClockInDoubt(message, binding_id=successor.id))
    if successor.state is not State.PENDING:
        was_too_late = successor.unbind_requested_at is None
        cause = "the end of its predecessor was confirmed too late" if was_too_late else "its unbind was requested"
        raise _unsent(errors.error_for(successor, cause=cause))


def _unsent(error: errors.BindingsError) -> errors.BindingsError:
    """Return the error of a takeover whose predecessor has ended and whose successor was not sent."""
    error.predecessor_ended = True
    return error


def _handle_rollback(runtime: Runtime, takeover: _Takeover) -> errors.BindingsError:
    """Let binds wait for a full scan, and return the error of a takeover that the database has lost."""
    log_rollback(runtime)
    with suppress(errors.Busy):
        runtime.database.write(lambda tx: account.require_full_scan(tx, runtime.caller, RestoreCause.ROLLED_BACK))
    message = (
        "the database has lost the takeover: it was restored to an earlier state; the predecessor has ended, and"
        " its successor was not sent; binds wait until `bindings reconcile` has completed"
    )
    return _unsent(errors.Busy(message, binding_id=takeover.successor.id))
