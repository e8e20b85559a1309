"""Finish what was left open: stale intents, doubts whose time is over, unbinds without a clear answer.

Nothing here ever sends a bind. An unbind is safe to repeat, so it is repeated until the answer is clear.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason
from bindings.errors import Busy
from bindings.failpoints import hit
from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import Refusal, Refused, UnbindNotFound, UnbindSucceeded
from bindings.store import expiry, holds, queries, settle
from bindings.store.bindings import BindingLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding, Caller
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import UnbindOutcome
    from bindings.store.database import Database, Transaction

BATCH = 500
UNBINDS_LOOKED_AT = 1_000
UNBIND_BUDGET_S = 20.0  # the next pass goes on; one must not last for ever against a slow provider


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverResult:
    """What one pass did: doubts opened, doubts ended by time, unbinds made clear, unbinds still unclear."""

    in_doubt: int
    lapsed: int
    unbound: int
    still_unclear: int


def recover(
    database: Database,
    provider: ProviderClient | None,
    guard_for: Callable[[int], float],
    caller: Caller,
    *,
    scope: str,
) -> RecoverResult:
    """One pass. Without a provider only what the database alone decides is done. Safe to repeat."""
    hit("recover.before")
    in_doubt = _all_batches(database, lambda tx: expiry.mark_unsettled_in_doubt(tx, caller, limit=BATCH))
    lapsed = _all_batches(database, lambda tx: expiry.lapse(tx, caller, limit=BATCH))
    hit("recover.before_unbinds")
    unbound = unclear = 0
    if provider is not None:
        unbound, unclear = _repeat_unbinds(database, provider, guard_for, caller)
        released, kept = _release_late_successes(database, provider, guard_for, caller, scope)
        unbound, unclear = unbound + released, unclear + kept
    return RecoverResult(in_doubt=in_doubt, lapsed=lapsed, unbound=unbound, still_unclear=unclear)


def finish_unbind(
    database: Database, provider: ProviderClient, binding: Binding, guard_s: float, caller: Caller
) -> tuple[Binding, UnbindOutcome]:
    """Ask the provider to end a binding whose wish to be unbound is committed, and record a clear answer.

    Sends the binding's own app_id: another one may be told that a live binding does not exist. Without a clear
    answer the binding is returned as it was, to be asked about again. Safe to repeat.
    """
    outcome = provider.unbind(app_id=binding.app_id, bind_id=str(binding.bind_id))
    hit("unbind.after_answer")
    match outcome:
        case UnbindSucceeded():
            reason, held_s = Reason.ASKED, 0.0
        case UnbindNotFound():
            reason, held_s = Reason.NOT_FOUND, guard_s  # the provider's refusals may outlast its record
        case Refused() | NotSent() | Unknown():
            return binding, outcome

    def work(tx: Transaction) -> Binding:
        ended = settle.settle_unbound(tx, binding.id, caller, reason=reason, guard_s=held_s)
        hit("unbind.settle_in_transaction")
        return ended

    try:
        settled = database.write(work)
    except Busy:
        return binding, Unknown(reason="the provider answered, but the database is away")
    except BindingLost:
        return binding, Unknown(reason="the provider answered, but the database has lost the binding")
    hit("unbind.after_settle")
    return settled, outcome


def _all_batches(database: Database, batch: Callable[[Transaction], int]) -> int:

    def work(tx: Transaction) -> int:
        changed = batch(tx)
        hit("recover.in_transaction")
        return changed

    total = 0
    while True:
        changed = database.write(work)
        total += changed
        if changed < BATCH:
            return total


def _repeat_unbinds(
    database: Database, provider: ProviderClient, guard_for: Callable[[int], float], caller: Caller
) -> tuple[int, int]:
    """Repeat the unbinds that have no clear answer; stop where no other one could be asked either.

    In any order, so that a few that stay unclear for ever do not keep newer ones from their turn.
    """
    open_unbinds = database.read(queries.unbinding, limit=UNBINDS_LOOKED_AT)
    random.shuffle(open_unbinds)
    deadline = time.monotonic() + UNBIND_BUDGET_S
    unbound = 0
    for binding in open_unbinds:
        if time.monotonic() > deadline:
            break
        _, outcome = finish_unbind(database, provider, binding, guard_for(binding.expire_s), caller)
        match outcome:
            case UnbindSucceeded() | UnbindNotFound():
                unbound += 1
            case NotSent() | Refused(why=Refusal.ACCOUNT | Refusal.CLOCK):
                break
            case Unknown() | Refused():
                pass
    return unbound, len(open_unbinds) - unbound


def _release_late_successes(
    database: Database, provider: ProviderClient, guard_for: Callable[[int], float], caller: Caller, scope: str
) -> tuple[int, int]:
    """Unbind what the provider made for bindings that had ended here; the holds end with it."""
    now = database.clock()
    held = database.read(holds.live, scope, now)
    late = {(hold.app_id, str(hold.bind_id)) for hold in held if hold.why is holds.HoldReason.LATE_SUCCESS}
    released = 0
    for app_id, bind_id in sorted(late):
        outcome = provider.unbind(app_id=app_id, bind_id=bind_id)
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            mine = [hold for hold in held if (hold.app_id, hold.bind_id) == (app_id, bind_id)]
            guard_s = guard_for(0) if isinstance(outcome, UnbindNotFound) else 0.0
            database.write(partial(holds.end_holds, caller=caller, holds=mine, reason="unbound", guard_s=guard_s))
            released += 1
    return released, len(late) - released
