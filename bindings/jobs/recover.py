"""Resolve what was left open: stale intents, doubts whose time is over, unbinds without a clear answer, releases.

Never sends a bind. An unbind is safe to repeat, so it is repeated until the answer is clear.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bindings.domain.hold import HoldReason
from bindings.errors import ClockInDoubt
from bindings.failpoints import hit
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.lifecycle.unbind import call_provider, end_holds_of_unbound, release, unbind_each
from bindings.provider.outcome import UnbindNotFound, UnbindSucceeded
from bindings.store import expiry, holds, queries, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import UnbindOutcome
    from bindings.store.database import Transaction

BATCH = 500
MAX_UNBINDS = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverResult:
    """What one run did: bindings marked in doubt, lapsed, unbinds with a clear answer, unbinds still unclear.

    `released` are expired bindings that were ended at the provider before its own end. `never_sent` are successors
    whose replace stopped before they were sent.
    """

    in_doubt: int
    lapsed: int
    unbound: int
    still_unclear: int
    released: int = 0
    never_sent: int = 0


def recover(runtime: Runtime, control: RunControl = UNSTOPPED) -> RecoverResult:
    """Run once and return the counts. Without a provider client, only do what the database alone decides.

    While the clock is in doubt no state changes by time, and only unbinds are repeated. A stop ends it within the
    time of one batch or one call; the next run continues. Safe to repeat and to run in several processes at the
    same time.
    """
    hit("recover.before")
    in_doubt, lapsed, never_sent, caller = 0, 0, 0, runtime.caller
    with suppress(ClockInDoubt):  # an unbind does not depend on the time
        never_sent = _end_overdue_successors(runtime, control)
        in_doubt = _all_batches(
            runtime, control, lambda tx: expiry.mark_unsettled_in_doubt(tx, caller, limit=BATCH)
        )
        lapsed = _all_batches(runtime, control, lambda tx: expiry.lapse(tx, caller, limit=BATCH))
    hit("recover.before_unbinds")
    unbound = unclear = released = 0
    if runtime.client is not None:
        repeated, still_unclear = _repeat_unbinds(runtime, control, runtime.client)
        ended_late, still_held = _release_late_successes(runtime, control, runtime.client)
        unbound, unclear = repeated + ended_late, still_unclear + still_held
        released = _release_expired(runtime, control, runtime.client)
    return RecoverResult(
        in_doubt=in_doubt,
        lapsed=lapsed,
        unbound=unbound,
        still_unclear=unclear,
        released=released,
        never_sent=never_sent,
    )


def _all_batches(runtime: Runtime, control: RunControl, run_batch: Callable[[Transaction], int]) -> int:
    def work(tx: Transaction) -> int:
        runtime.clocks.verify(tx.instant())
        changed = run_batch(tx)
        hit("recover.in_transaction")
        return changed

    total = 0
    while True:
        changed = runtime.database.write(work)
        total += changed
        control.record_progress()
        if changed < BATCH or control.is_stopping():
            return total


def _end_overdue_successors(runtime: Runtime, control: RunControl) -> int:
    """End the successors that have waited too long for their predecessor; they were never sent."""
    now = runtime.database.clock()
    runtime.clocks.verify(now)
    overdue = runtime.database.read(queries.overdue_successors, now, limit=BATCH)
    ended = 0
    for binding_id in control.work_through(overdue):

        def work(tx: Transaction, binding_id: str = binding_id) -> bool:
            was_waiting = settle.end_waiting(tx, binding_id, runtime.caller) is not None
            hit("recover.end_waiting_in_transaction")
            return was_waiting

        ended += runtime.database.write(work)
    return ended


def _repeat_unbinds(runtime: Runtime, control: RunControl, client: ProviderClient) -> tuple[int, int]:
    """Repeat the unbinds that have no clear answer; stop if no other could be sent either.

    In random order, so that a few that stay unclear do not keep newer ones from their turn.
    """
    unbinding = runtime.database.read(queries.unbinding, limit=MAX_UNBINDS)
    random.shuffle(unbinding)
    ended = unbind_each(runtime, control.work_through(unbinding), partial(release, runtime, client))
    return len(ended), len(unbinding) - len(ended)


def _release_expired(runtime: Runtime, control: RunControl, client: ProviderClient) -> int:
    """Unbind the expired bindings that the provider would hold for longer; return how many have ended there."""
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    expired = runtime.database.read(queries.releases_owed, now, limit=MAX_UNBINDS)
    random.shuffle(expired)
    return len(unbind_each(runtime, control.work_through(expired), partial(release, runtime, client)))


def _release_late_successes(runtime: Runtime, control: RunControl, client: ProviderClient) -> tuple[int, int]:
    """Unbind what the provider made for bindings that had ended here, and end its holds.

    Returns how many have ended, and how many are still held. The holds are read just before each call: if they
    have ended, the provider may have given the bind_id to another bind since.
    """
    now = runtime.clocks.trusted_instant(runtime.database.clock())
    live = runtime.database.read(holds.live, runtime.settings.scope, now)
    late = list({(hold.app_id, str(hold.bind_id)) for hold in live if hold.why is HoldReason.LATE_SUCCESS})
    random.shuffle(late)

    not_held: list[tuple[str, str]] = []

    def unbind_late(app_and_bind_id: tuple[str, str]) -> tuple[tuple[str, str], UnbindOutcome | None]:
        app_id, bind_id = app_and_bind_id
        now = runtime.clocks.trusted_instant(runtime.database.clock())
        matching = runtime.database.read(holds.with_bind_id, app_id, bind_id, now)
        if all(hold.why is not HoldReason.LATE_SUCCESS for hold in matching):
            not_held.append(app_and_bind_id)
            return app_and_bind_id, None
        outcome = call_provider(client, app_id=app_id, bind_id=bind_id)
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            end_holds_of_unbound(runtime, matching, outcome)
        return app_and_bind_id, outcome

    ended = unbind_each(runtime, control.work_through(late), unbind_late)
    return len(ended), len(late) - len(ended) - len(not_held)
