"""Unbind: commit the request, call the provider, record a clear answer.

An unbind is safe to repeat at the provider, so one without a clear answer is repeated by `recover` until it has
one. From the commit of the request on, lookups do not return the binding. For a binding that has ended here the
provider is called only if it may live on there: its promised end came before the provider's, or a scan found it
alive (a revenant). The binding stays as it is, and its phones are free. No SQL and no HTTP here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, assert_never

from bindings import errors
from bindings.domain.binding import Reason, State
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Unknown
from bindings.lifecycle.resolution_times import RetryAfter
from bindings.provider.outcome import Refusal, Refused, UnbindNotFound, UnbindSucceeded
from bindings.store import holds, queries, settle
from bindings.store.bindings import BindingLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bindings.domain.binding import Binding
    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import UnbindOutcome
    from bindings.store.database import Transaction
    from bindings.store.holds import Hold

Item = TypeVar("Item")

RETRY_AFTER_S = 2
UNBIND_BUDGET_S = 20.0  # a run must not last forever against a slow provider; the next run continues


@dataclass(frozen=True, kw_only=True, slots=True)
class NotRecorded:
    """The provider has ended the binding, but the database could not record it: `recover` calls again."""

    reason: str


def unbind(runtime: Runtime, binding_id: str, reason: str | None) -> Binding:
    """Commit the request to unbind, call the provider, and return the binding. Safe to repeat.

    A binding that has ended is returned without a call, unless the provider still has it; one that is only past
    its end by a clock in doubt has not ended. Raises `NotFound`, or, with the request recorded, `OutcomeUnknown`,
    `ProviderUnreachable` or `ProviderRefused`.
    """
    with RetryAfter(runtime):
        return _request_and_unbind(runtime, binding_id, reason)


def _request_and_unbind(runtime: Runtime, binding_id: str, reason: str | None) -> Binding:
    client = runtime.require_client()

    def work(tx: Transaction) -> Binding | None:
        requested = settle.request_unbind(tx, binding_id, runtime.caller, reason, in_doubt=runtime.clocks.in_doubt)
        hit("unbind.request_in_transaction")
        return requested

    binding = runtime.database.write(work, attempt_timeout_s=runtime.database.timeout_s)
    hit("unbind.after_request")
    if binding is None:
        raise errors.NotFound(binding_id=binding_id)
    if binding.state.terminal:
        return _end_at_provider(runtime, client, binding)
    if binding.state is not State.ACTIVE:
        message = (
            "whether the binding exists is not known yet; it will be unbound as soon as it is"
            if binding.waits_for is None
            else "the binding has not been sent to the provider, and will not be: it ends as never sent"
        )
        raise errors.OutcomeUnknown(message, binding=binding)
    binding, outcome = finish_unbind(runtime, client, binding)
    if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
        return binding
    raise _error_for(outcome, binding)


def release(
    runtime: Runtime, client: ProviderClient, binding: Binding
) -> tuple[Binding, UnbindOutcome | NotRecorded]:
    """Unbind a binding that expired or was read some time ago; otherwise as `finish_unbind`.

    No call is made if the provider has given its bind_id to another binding: that one's would be ended.
    """
    if not runtime.database.read(queries.is_bind_id_used_again, binding):
        return finish_unbind(runtime, client, binding)
    ended = runtime.database.write(
        lambda tx: settle.settle_unbound(tx, binding.id, runtime.caller, reason=Reason.GONE_AT_PROVIDER)
    )
    return ended, UnbindSucceeded()


def _end_at_provider(runtime: Runtime, client: ProviderClient, binding: Binding) -> Binding:
    """Unbind a binding that has ended here where it lives on at the provider, and return it.

    Its release is owed, or a scan found it there; then its holds end.
    """
    if binding.bind_id is None:  # a hold without one, after a -35, is of an unknown binding at the provider
        return binding
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    if binding.is_release_owed(now):
        released, outcome = release(runtime, client, binding)
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            return released
        raise _error_for(outcome, binding, what_happens="its release will be repeated")
    held = runtime.database.read(holds.of_ended_binding, binding, now)
    if not held:
        return binding
    outcome = call_provider(client, app_id=binding.app_id, bind_id=binding.bind_id)
    if not isinstance(outcome, UnbindSucceeded | UnbindNotFound):
        raise _error_for(outcome, binding, what_happens="its phones stay held; unbind it again")
    try:
        end_holds_of_unbound(runtime, held, outcome)
    except errors.Busy as busy:
        message = "the provider has ended the binding, but that could not be recorded; unbind it again"
        raise errors.OutcomeUnknown(message, binding=binding) from busy
    return binding


def end_holds_of_unbound(
    runtime: Runtime, held: Sequence[Hold], outcome: UnbindSucceeded | UnbindNotFound
) -> None:
    """End the holds of what the provider has ended, or after a guard time if it did not find that."""
    guard_s = runtime.settings.guard_for(0) if isinstance(outcome, UnbindNotFound) else 0.0
    runtime.database.write(lambda tx: holds.end_holds(tx, runtime.caller, held, reason="unbound", guard_s=guard_s))


def finish_unbind(
    runtime: Runtime, client: ProviderClient, binding: Binding
) -> tuple[Binding, UnbindOutcome | NotRecorded]:
    """Call the provider for a binding whose request to unbind is committed, and record a clear answer.

    Sends the binding's own app_id: for another one the provider may deny a live binding. Without a clear answer
    the binding is returned as it was, to be tried again. Safe to repeat.
    """
    outcome = call_provider(client, app_id=binding.app_id, bind_id=str(binding.bind_id))
    hit("unbind.after_answer")
    if not isinstance(outcome, UnbindSucceeded | UnbindNotFound):
        return binding, outcome
    reason, held_s = confirmation(runtime, binding, outcome)

    def work(tx: Transaction) -> Binding:
        ended_at = runtime.clocks.trusted_instant(tx.instant())
        ended = settle.settle_unbound(
            tx, binding.id, runtime.caller, reason=reason, ended_at=ended_at, guard_s=held_s
        )
        hit("unbind.settle_in_transaction")
        return ended

    try:
        settled = runtime.database.write(work)
    except errors.Busy as busy:
        return binding, NotRecorded(reason=f"that could not be recorded ({busy})")
    except BindingLost:
        return binding, NotRecorded(reason="the database has lost the binding")
    hit("unbind.after_settle")
    return settled, outcome


def call_provider(client: ProviderClient, *, app_id: str, bind_id: str) -> UnbindOutcome:
    """Ask the provider to end a binding, a second time if it refuses the timestamp, and return its answer."""
    outcome = client.unbind(app_id=app_id, bind_id=bind_id)
    if isinstance(outcome, Refused) and outcome.refusal is Refusal.CLOCK:
        # Now the provider's clock is known, and the timestamp of a second call follows it.
        outcome = client.unbind(app_id=app_id, bind_id=bind_id)
    return outcome


def confirmation(
    runtime: Runtime, binding: Binding, outcome: UnbindSucceeded | UnbindNotFound
) -> tuple[Reason, float]:
    """Return the reason that a confirmed end is recorded with, and for how many seconds the phones stay held."""
    if isinstance(outcome, UnbindNotFound):
        # The provider may refuse the phones for a while after it has dropped the binding.
        return Reason.NOT_FOUND, runtime.guard_s(binding)
    return Reason.ASKED if binding.replaced_by is None else Reason.REPLACED, 0.0


def unbind_each(
    runtime: Runtime,
    items: Iterable[Item],
    unbind_one: Callable[[Item], tuple[Item, UnbindOutcome | NotRecorded | None]],
) -> list[Item]:
    """Unbind these within the budget, and return those for which the answer was clear, as they are now.

    `unbind_one` returns an item as it is now, and the provider's answer: None if no call was made. Ends early if
    the provider cannot be reached, refuses the account or answers HTTP 429: none of the others could be unbound.
    """
    deadline = runtime.clock.monotonic() + UNBIND_BUDGET_S
    ended: list[Item] = []
    for item in items:
        if runtime.clock.monotonic() > deadline:
            break
        current, outcome = unbind_one(item)
        match outcome:
            case UnbindSucceeded() | UnbindNotFound():
                ended.append(current)
            case NotSent() | Refused(refusal=Refusal.ACCOUNT | Refusal.CLOCK) | Unknown(is_rate_limited=True):
                break
            case Unknown() | Refused() | NotRecorded() | None:
                pass
    return ended


def _error_for(
    outcome: Unknown | NotSent | Refused | NotRecorded,
    binding: Binding,
    *,
    what_happens: str = "the unbind is recorded and will be repeated",
) -> errors.BindingsError:
    """Return the error of an unbind that is not recorded as confirmed, and what happens to it now."""
    match outcome:
        case NotRecorded():
            message = f"the provider has ended the binding, but {outcome.reason}; {what_happens}"
            return errors.OutcomeUnknown(message, binding=binding)
        case Unknown():
            message = f"the provider gave no clear answer to the unbind; {what_happens}"
            return errors.OutcomeUnknown(message, binding=binding)
        case NotSent():
            message = f"the unbind was not sent ({outcome.reason}); {what_happens}"
            return errors.ProviderUnreachable(message, binding_id=binding.id, retry_after_s=RETRY_AFTER_S)
        case Refused():
            message = f"the provider refused the unbind; {what_happens}"
            of_account = outcome.refusal in (Refusal.ACCOUNT, Refusal.CLOCK)
            error_class = errors.ProviderAccountRefused if of_account else errors.ProviderRefused
            return error_class(
                message,
                status=outcome.status,
                reason=outcome.reason,
                binding_id=binding.id,
                retry_after_s=RETRY_AFTER_S,
            )
        case _:
            assert_never(outcome)
