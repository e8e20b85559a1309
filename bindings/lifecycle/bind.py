"""Bind: reserve the phones, call the provider, settle the outcome; and replay an idempotency key.

A bind is two short transactions around one call. The first commits the intent (I3), nothing is held open during
the call, the second records its outcome. If the process stops in between, a pending binding is left, which
`recover` and `reconcile` finish. Arguments arrive checked, as a `BindRequest`. No SQL and no HTTP here.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from uuid_utils import uuid7

from bindings import errors
from bindings.domain.acts import RestoreCause
from bindings.domain.binding import Reason, State
from bindings.domain.text import FreeText
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Unknown
from bindings.lifecycle.clocks import SendClock
from bindings.lifecycle.older_versions import PROMISED_ENDS
from bindings.lifecycle.refusals import record_account_refusal, record_conflict
from bindings.lifecycle.resolution_times import RetryAfter
from bindings.lifecycle.storable import require_storable, storable_outcome
from bindings.lifecycle.unbind import finish_unbind
from bindings.provider.outcome import BindSucceeded, Refusal, Refused
from bindings.store import account, holds, reserve, settle
from bindings.store.bindings import BindingLost, find
from bindings.store.failures import ConstraintViolated

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding, BindRequest
    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import BindOutcome
    from bindings.store.database import Transaction

_log = logging.getLogger(__name__)

SETTLE_BUDGET_S = 30.0  # the outcome is only in memory: retry for longer than a failover takes
SETTLE_ATTEMPT_S = 6.0  # of that for one attempt: a frozen primary never answers, the next server does
FULL_SCAN_RETRY_S = 30
REPLAY_POLL_S = 0.05

_WAS_ACTIVE = (State.ACTIVE, State.EXPIRED, State.UNBOUND)  # the provider made it; it may have ended since


@dataclass(frozen=True, kw_only=True, slots=True)
class BindResult:
    """The binding, and whether an earlier call with the same idempotency key made it."""

    binding: Binding
    replayed: bool


def bind(runtime: Runtime, request: BindRequest) -> BindResult:
    """Reserve, call and settle; or replay the request's idempotency key, also when binds are refused now."""
    return admit(runtime, request, _bind, key_owner=runtime.caller.actor)


def admit(
    runtime: Runtime,
    request: BindRequest,
    call: Callable[[Runtime, ProviderClient, BindRequest], Binding | reserve.Replayed],
    *,
    key_owner: str,
) -> BindResult:
    """Run a call that may make a binding if binds are admitted now; otherwise replay the request's key.

    `key_owner` is the actor that the key belongs to. An error of `call` that has a `binding_id` is its own and no
    reason to replay.
    """
    with RetryAfter(runtime):
        return _admit(runtime, request, call, key_owner)


def _admit(
    runtime: Runtime,
    request: BindRequest,
    call: Callable[[Runtime, ProviderClient, BindRequest], Binding | reserve.Replayed],
    key_owner: str,
) -> BindResult:
    client = runtime.require_client()
    runtime.database.run_deferred_check()  # before admission, which goes by the clocks that the check reads
    try:
        with runtime.admission.slot(request.app_id):
            outcome = call(runtime, client, request)
    except (errors.Busy, errors.ProviderAccountRefused) as refusal:
        replay = None if refusal.binding_id else _find_replay(runtime, request, key_owner)
        if replay is None:
            if isinstance(refusal, errors.ProviderAccountRefused) and refusal.binding_id is None:
                record_account_refusal(runtime, request, refusal)
            raise
        outcome = replay
    if isinstance(outcome, reserve.Replayed):
        return BindResult(binding=_replayed_binding(runtime, outcome), replayed=True)
    binding = outcome
    if binding.unbind_requested_at is not None and binding.state is State.ACTIVE:
        binding, _ = finish_unbind(runtime, client, binding)
    return BindResult(binding=binding, replayed=False)


def _bind(runtime: Runtime, client: ProviderClient, request: BindRequest) -> Binding | reserve.Replayed:
    arguments = (str(uuid7()), request, runtime.limits, runtime.caller)
    attempts_began: list[float] = []
    committed = runtime.rollback_detector.newest()

    def work(tx: Transaction) -> reserve.Reserved | reserve.Replayed | reserve.Conflict | reserve.FullScanRequired:
        attempts_began.append(tx.started_at)
        reserved = reserve.reserve(
            tx,
            *arguments,
            committed=committed,
            verify_clock=runtime.clocks.verify,
            on_phone_storage=runtime.reserve_call.remember,
        )
        hit("bind.reserve_in_transaction")
        return reserved

    def call_function(tx: Transaction) -> reserve.Reserved | None:
        hit("bind.reserve_in_transaction")
        attempts_began.append(tx.started_at)
        reserved = runtime.reserve_call.reserve(
            tx, *arguments, committed=committed, trusted_range=runtime.clocks.trusted_range
        )
        if reserved is None:
            attempts_began.clear()  # nothing was committed
        else:
            runtime.clocks.observe(reserved.binding.requested_at)
        return reserved

    require_storable(runtime.database, request)
    if request.max_expire_s is not None:
        runtime.older_versions.require_none(PROMISED_ENDS)
    hit("bind.before_reserve")
    reserved = runtime.database.write(
        work, attempt_timeout_s=runtime.database.timeout_s, autocommit_first=call_function
    )
    hit("bind.after_reserve")
    before, after = attempts_began[0], runtime.clock.monotonic()  # the first attempt may be the one that committed
    match reserved:
        case reserve.Replayed():
            return reserved
        case reserve.Conflict(holder=holder):
            raise record_conflict(runtime, request, holder)
        case reserve.FullScanRequired(rollback_detected=rollback_detected):
            raise full_scan_required(runtime, rollback_detected=rollback_detected)
        case reserve.Reserved(binding=intent):
            runtime.rollback_detector.remember(intent)
        case _:
            assert_never(reserved)
    return send(runtime, client, request, SendClock(intent=intent, before=before, after=after))


def send(runtime: Runtime, client: ProviderClient, request: BindRequest, send_clock: SendClock) -> Binding:
    """Send the request of a committed intent once, and record the outcome. Raises if no binding was made."""
    outcome = client.bind(request, send_before=send_clock.before + reserve.SEND_WINDOW_S)
    hit("bind.after_answer")
    binding = _settle(runtime, send_clock, outcome)
    hit("bind.after_settle")
    if binding.state in _WAS_ACTIVE:
        return binding
    raise _error_for(runtime, binding, cause=getattr(outcome, "reason", None))


def full_scan_required(runtime: Runtime, *, rollback_detected: bool) -> errors.Busy:
    """Return the error of a bind that waits for a full scan; log a rollback that was detected by it."""
    if rollback_detected:
        log_rollback(runtime)
    message = "the database was restored to an earlier state: binds wait until `bindings reconcile` has completed"
    return errors.Busy(message, retry_after_s=FULL_SCAN_RETRY_S)


# Settle.


def _settle(runtime: Runtime, send_clock: SendClock, outcome: BindOutcome) -> Binding:
    """Record the outcome and return the binding; if the database fails, `recover` settles it later."""
    intent = send_clock.intent
    try:
        return runtime.rollback_detector.remember(_record_outcome(runtime, send_clock, outcome))
    except BindingLost as error:
        raise _handle_rollback_during_call(runtime, send_clock, outcome) from error
    except errors.Busy as failure:
        _log.error("bind %s: %s, but not recorded (%s): left to recover", intent.id, outcome.label, failure)
        message = f"the provider was called, but its answer could not be recorded ({failure}); it will be resolved"
        raise errors.OutcomeUnknown(message, binding=intent) from failure


def _record_outcome(runtime: Runtime, send_clock: SendClock, outcome: BindOutcome) -> Binding:
    outcome = storable_outcome(runtime.database, outcome)

    def work(tx: Transaction) -> Binding:
        settled = _apply_outcome(runtime, tx, send_clock, outcome)
        hit("bind.settle_in_transaction")
        return settled

    try:
        return runtime.database.write(
            work,
            budget_s=SETTLE_BUDGET_S,
            attempt_timeout_s=SETTLE_ATTEMPT_S,
            autocommit_first=_success_statement(runtime, send_clock, outcome)
            if isinstance(outcome, BindSucceeded)
            else None,
        )
    except ConstraintViolated as violated:
        if violated.constraint not in settle.BIND_ID_TAKEN:
            raise
        # Another success with this bind_id was recorded at the same moment: now it is the earlier use.
        return runtime.database.write(work, budget_s=SETTLE_BUDGET_S, attempt_timeout_s=SETTLE_ATTEMPT_S)


def _success_statement(
    runtime: Runtime, send_clock: SendClock, outcome: BindSucceeded
) -> Callable[[Transaction], Binding | None]:
    """Return the fast path of a successful bind: a single statement."""
    success = send_clock.success(outcome, runtime.guard_s(send_clock.intent))

    def activate(tx: Transaction) -> Binding | None:
        hit("bind.settle_in_transaction")
        return settle.activate(tx, send_clock.intent, success, runtime.caller)

    return activate


def _apply_outcome(runtime: Runtime, tx: Transaction, send_clock: SendClock, outcome: BindOutcome) -> Binding:
    intent, caller = send_clock.intent, runtime.caller
    match outcome:
        case BindSucceeded():
            success = send_clock.success(outcome, runtime.guard_s(intent))
            return settle.settle_success(tx, intent, success, caller)
        case Refused(refusal=Refusal.IN_USE):
            policy = runtime.limits.policy
            return settle.settle_in_use(tx, intent, caller, status=outcome.status, policy=policy)
        case Refused(refusal=Refusal.NO_NUMBER):
            return settle.settle_no_number(tx, intent, caller, status=outcome.status, message=outcome.reason)
        case Refused():
            reason, message = Reason(outcome.refusal), {"said": FreeText(outcome.reason)}
            return settle.settle_failed(
                tx, intent.id, caller, reason=reason, status=outcome.status, detail=message
            )
        case NotSent():
            detail = {"said": outcome.reason}
            return settle.settle_failed(
                tx, intent.id, caller, reason=Reason.NEVER_SENT, status=None, detail=detail
            )
        case Unknown():
            return settle.settle_unknown(
                tx,
                intent.id,
                caller,
                reason=Reason.NO_CLEAR_ANSWER,
                status=outcome.status,
                message=outcome.reason,
                sent_at=None if outcome.sent is None else send_clock.sent_at(outcome.sent),
            )
        case _:
            assert_never(outcome)


def log_rollback(runtime: Runtime) -> None:
    """Log that the database has lost what was committed, and forget that version."""
    runtime.rollback_detector.forget()
    _log.critical("the database has lost what was committed: it was restored to an earlier state; binds wait")


def _handle_rollback_during_call(
    runtime: Runtime, send_clock: SendClock, outcome: BindOutcome
) -> errors.OutcomeUnknown:
    """Hold what the provider created, to be unbound by `recover`, and return the error of the lost binding."""
    intent = send_clock.intent

    def work(tx: Transaction) -> None:
        account.require_full_scan(tx, runtime.caller, RestoreCause.ROLLED_BACK)
        if isinstance(outcome, BindSucceeded):
            success = send_clock.success(outcome, runtime.guard_s(intent))
            holds.hold_success_of_lost_intent(tx, intent, success, runtime.caller)

    log_rollback(runtime)
    with suppress(errors.Busy):  # without the hold, a scan finds it as an orphan
        runtime.database.write(work, budget_s=SETTLE_BUDGET_S)
    message = "the database has lost the binding during the call; if the provider made it, it will be unbound"
    return errors.OutcomeUnknown(message, binding=intent)


def _error_for(runtime: Runtime, binding: Binding, cause: str | None = None) -> errors.BindingsError:
    holder = None
    if binding.reason == Reason.IN_USE:
        with suppress(errors.Busy):
            now = runtime.database.clock()
            holder = runtime.database.read(reserve.other_holder, binding, now)
    return errors.error_for(binding, cause=cause, holder=holder)


# Replay.


def _find_replay(runtime: Runtime, request: BindRequest, key_owner: str) -> reserve.Replayed | None:
    if request.idempotency_key is None:
        return None
    with suppress(errors.Busy):
        return runtime.database.read(reserve.replay, request, key_owner)
    return None


def _replayed_binding(runtime: Runtime, replay: reserve.Replayed) -> Binding:
    """Return the first call's binding, or raise its error; wait until `settle_by` while that call is under way."""
    if not replay.same:
        raise errors.IdempotencyMismatch(binding_id=replay.binding.id)
    binding = replay.binding
    if binding.state is State.PENDING:
        try:
            binding = _await_settled(runtime, binding)
        except errors.Busy as busy:  # the first call may have been sent
            raise errors.OutcomeUnknown(binding=binding) from busy
    match binding.state:
        case State.PENDING | State.IN_DOUBT | State.FAILED:
            error = _error_for(runtime, binding)
            error.replayed = True
            raise error
        case State.ACTIVE | State.EXPIRED | State.UNBOUND | State.LAPSED:
            return binding
        case _:
            assert_never(binding.state)


def _await_settled(runtime: Runtime, binding: Binding) -> Binding:
    clock = runtime.clock
    deadline = clock.monotonic() + max(0.0, (binding.settle_by - runtime.database.clock()).total_seconds())
    while binding.state is State.PENDING and clock.monotonic() < deadline:
        clock.sleep(REPLAY_POLL_S)
        stored = runtime.database.read(find, binding.id)
        if stored is None:
            raise errors.NotFound(binding_id=binding.id)
        deadline += (stored.settle_by - binding.settle_by).total_seconds()  # later once a successor is cleared
        binding = stored
    return binding
