"""Checks of what happened lately: outcomes of binds, ends, pools, webhooks.

They go by what is recorded, so they are the same on every replica and call nothing. They are no part of readiness:
lookups work without binds.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason, State
from bindings.domain.serialization import duration
from bindings.monitoring import encryption_checks, feed_check, protection_checks, replica_check, seal_check
from bindings.monitoring.check import Check, Level
from bindings.monitoring.health_metrics import MAX_DELIVERIES_READ, MAX_RELEASES_READ
from bindings.monitoring.statistics import pool_forecasts
from bindings.provider import statuses
from bindings.store import deliveries, queries, refusals
from bindings.store.deliveries import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.store.queries import Outcome
    from bindings.store.read_once import Reads

# The alert BindingsBindsFail has the same period and the same number of binds.
PERIOD = timedelta(minutes=5)
MAX_BINDS = 200
RED_BINDS = 3  # fewer failures may be the callers' own
WARN_BINDS = 10
WARN_SHARE = 0.1
LAG_WARN_S = 30.0  # the alert BindingsSweepLags has the same number
MAX_POOLS = 5
RELEASE_WARN_S = 60.0
MANY_PENDING = 1_000  # deliveries; the alert BindingsDeliveriesPile has the same number
SEND_WARN_S = 60.0
_CHECK_RECEIVERS = (
    "`bindings webhooks list` names the receivers: check that they answer, and that a scheduler runs"
)
_UNKNOWN_OUTCOMES = (State.IN_DOUBT, State.LAPSED)


def of_binds(database: Reads) -> Check:
    """Return whether the binds of the last minutes succeeded; phones that were held here are not counted."""
    since = database.clock() - PERIOD
    newest_binds = database.read(queries.newest_outcomes, limit=MAX_BINDS)
    outcomes = [outcome for outcome in newest_binds if outcome.requested_at >= since]
    refused = database.read(refusals.count_account_refusals, database.now, period=PERIOD, limit=MAX_BINDS)
    settled = [outcome for outcome in outcomes if outcome.state is not State.PENDING]
    causes = Counter(_cause(outcome) for outcome in settled if outcome.state in (State.FAILED, *_UNKNOWN_OUTCOMES))
    causes["refused before the call: the provider had refused the account"] += refused
    binds, failed = len(settled) + refused, causes.total()
    period = f"in the last {duration(PERIOD.total_seconds())}"
    if not binds:
        return Check(name="binds", level=Level.OK, seen=f"none has a result {period}")
    newest = "the newest " if MAX_BINDS in (len(outcomes), refused) else ""
    observed = f"{binds - failed} of {newest}{binds} succeeded {period}"
    none_succeeded = failed == binds >= RED_BINDS
    if not none_succeeded and (binds < WARN_BINDS or failed <= WARN_SHARE * binds):
        return Check(name="binds", level=Level.OK, seen=observed)
    cause, count = causes.most_common(1)[0]
    return Check(
        name="binds",
        level=Level.RED if none_succeeded else Level.WARN,
        seen=f"{observed}; most frequent: {cause} ({count})",
        todo="`bindings list --state failed` and `bindings doubts` list those that failed or are in doubt",
    )


def of_releases(database: Reads) -> Check:
    """Return whether expired bindings that the provider holds for longer are ended there."""
    count, oldest = database.read(queries.count_releases_owed, database.now, limit=MAX_RELEASES_READ)
    if oldest is None:
        return Check(name="releases", level=Level.OK, seen="none is owed")
    age_s = (database.clock() - oldest).total_seconds()
    more = " or more" if count == MAX_RELEASES_READ else ""
    waiting = f"{count}{more} expired binding(s) wait to be ended at the provider"
    observed = f"{waiting}, the oldest for {duration(age_s)}"
    if age_s < RELEASE_WARN_S:
        return Check(name="releases", level=Level.OK, seen=observed)
    todo = "the job `recover` ends them: check that a scheduler runs and that the provider answers unbinds"
    return Check(name="releases", level=Level.WARN, seen=observed, todo=todo)


def of_sweep_lag(database: Reads) -> Check:
    """Return whether ended bindings are recorded as expired in time."""
    ended_at = database.read(queries.longest_overdue, database.now)
    if ended_at is None:
        return Check(name="sweep_lag", level=Level.OK, seen="every ended binding is recorded as expired")
    lag_s = (database.clock() - ended_at).total_seconds()
    observed = f"the oldest ended binding that is not recorded as expired ended {duration(lag_s)} ago"
    if lag_s <= LAG_WARN_S:
        return Check(name="sweep_lag", level=Level.OK, seen=observed)
    todo = "its event is late: check that a scheduler runs, and how fast the database writes"
    return Check(name="sweep_lag", level=Level.WARN, seen=observed, todo=todo)


def of_middle_numbers(database: Reads) -> Check:
    """Return whether pools are low on middle numbers, or will be soon."""
    low = [
        f"pool {entry.pool.pool_number}: {entry.forecast.summary}"
        for entry in pool_forecasts(database)
        if entry.pool.low_at is not None or entry.forecast.needs_attention
    ]
    if not low:
        return Check(name="middle_numbers", level=Level.OK, seen="no pool is known to be low")
    more = f"; {len(low) - MAX_POOLS} more pool(s)" if len(low) > MAX_POOLS else ""
    todo = "have numbers added to the pool, or bind from another one; `bindings pools` shows all"
    return Check(name="middle_numbers", level=Level.WARN, seen="; ".join(low[:MAX_POOLS]) + more, todo=todo)


def of_webhooks(database: Reads) -> Check:
    """Return whether deliveries are dead, many are pending, or events wait to be sent."""
    backlog = database.read(deliveries.backlog, limit=MAX_DELIVERIES_READ)
    waiting_since = database.read(deliveries.waiting_since, database.now)
    dead, pending = backlog[DeliveryState.DEAD], backlog[DeliveryState.PENDING]
    waiting_s = 0.0 if waiting_since is None else (database.clock() - waiting_since).total_seconds()
    counts = f"deliveries: {_count(pending)} pending, {_count(dead)} dead"
    if waiting_s > SEND_WARN_S:
        observed = f"{counts}; the oldest event that is due has waited for {duration(waiting_s)}"
        return Check(name="webhooks", level=Level.WARN, seen=observed, todo=_CHECK_RECEIVERS)
    if dead:
        todo = "`bindings webhooks redeliver` sends the dead ones again: run it when the receiver works"
        return Check(name="webhooks", level=Level.WARN, seen=counts, todo=todo)
    if pending > MANY_PENDING:
        return Check(name="webhooks", level=Level.WARN, seen=counts, todo=_CHECK_RECEIVERS)
    return Check(name="webhooks", level=Level.OK, seen=counts)


def _count(deliveries_read: int) -> str:
    return f"{deliveries_read} or more" if deliveries_read == MAX_DELIVERIES_READ else str(deliveries_read)


def _cause(outcome: Outcome) -> str:
    """Return why a bind failed, in words."""
    if outcome.state in _UNKNOWN_OUTCOMES:
        return "no clear answer of the provider"
    if outcome.provider_status is not None:
        return f"status {outcome.provider_status}, {statuses.meaning(outcome.provider_status)}"
    return "never sent" if outcome.reason == Reason.NEVER_SENT else str(outcome.reason).replace("_", " ")


ACTIVITY_CHECKS: dict[str, Callable[[Reads], Check]] = {
    "binds": of_binds,
    "sweep_lag": of_sweep_lag,
    "middle_numbers": of_middle_numbers,
    "releases": of_releases,
    "webhooks": of_webhooks,
    "webhook_encryption": encryption_checks.of_webhooks,
    "feed": feed_check.feed_in_order,
    "replicas": replica_check.replicas_at_work,
    "seals": seal_check.seals_in_time,
    **protection_checks.PROTECTION_CHECKS,
}
