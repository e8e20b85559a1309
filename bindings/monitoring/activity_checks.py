"""Checks of what happened lately: the outcomes of binds, the readings of the provider's list, the webhooks.

They go by what is recorded, so they are the same on every replica and call nothing. They are no part of readiness:
lookups work without binds.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason, State
from bindings.domain.serialization import duration
from bindings.monitoring import encryption_checks, feed_check, replica_check
from bindings.monitoring.check import Check, Level
from bindings.monitoring.health_metrics import MAX_DELIVERIES_READ, MAX_RELEASES_READ
from bindings.provider import statuses
from bindings.store import deliveries, queries, reports
from bindings.store.deliveries import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bindings.store.database import Database
    from bindings.store.queries import Outcome
    from bindings.store.reports import Report

PERIOD = timedelta(minutes=15)
MAX_BINDS = 200
FEWEST_BINDS = 3  # fewer failures may be the callers' own
WARN_SHARE = 0.2
MAX_REPORTS = 20
RELEASE_WARN_S = 60.0


def of_binds(database: Database) -> Check:
    """Return whether the binds of the last minutes succeeded."""
    outcomes = database.read(queries.newest_outcomes, since=database.clock() - PERIOD, limit=MAX_BINDS)
    settled = [outcome for outcome in outcomes if outcome.state is not State.PENDING]
    failures = [outcome for outcome in settled if outcome.state in (State.FAILED, State.IN_DOUBT)]
    period = f"in the last {duration(PERIOD.total_seconds())}"
    if not settled:
        return Check(name="binds", level=Level.OK, seen=f"none {period}")
    observed = f"{len(settled) - len(failures)} of {len(settled)} succeeded {period}"
    if len(settled) < FEWEST_BINDS or len(failures) < WARN_SHARE * len(settled):
        return Check(name="binds", level=Level.OK, seen=observed)
    cause, count = Counter(map(_cause, failures)).most_common(1)[0]
    return Check(
        name="binds",
        level=Level.RED if len(failures) == len(settled) else Level.WARN,
        seen=f"{observed}; most frequent: {cause} ({count})",
        todo="`bindings list --state failed` and `bindings doubts` list them with their causes",
    )


def of_reconciliation(database: Database) -> Check:
    """Return whether the last reconciliation could read the provider's list."""
    runs = [report for report in _newest_reports(database) if not report.counts.get("dry_run")]
    newest = runs[0] if runs else None
    if newest is None:
        return Check(name="reconciliation", level=Level.OK, seen="none is recorded")
    age = duration((database.clock() - newest.finished_at).total_seconds())
    if newest.counts.get("zone_misfit_s"):
        observed = f"the one of {age} ago concluded nothing: the times of the list do not fit ours"
        todo = "check BINDINGS_PROVIDER_ZONE"
        return Check(name="reconciliation", level=Level.RED, seen=observed, todo=todo)
    if not newest.counts.get("incomplete"):
        return Check(name="reconciliation", level=Level.OK, seen=f"the one of {age} ago read all that it needed")
    failed = next((number for number, report in enumerate(runs) if not report.counts.get("incomplete")), len(runs))
    more = " or more" if failed == MAX_REPORTS else ""
    observed = f"the last {failed}{more} could not read the provider's list in full, the newest {age} ago"
    todo = (
        "`bindings reports` has the reasons; until one does, doubts end by time and foreign bindings are not seen"
    )
    return Check(name="reconciliation", level=Level.WARN, seen=observed, todo=todo)


def of_releases(database: Database) -> Check:
    """Return whether expired bindings that the provider holds for longer are ended there."""
    count, oldest = database.read(queries.count_releases_owed, database.now, limit=MAX_RELEASES_READ)
    if oldest is None:
        return Check(name="releases", level=Level.OK, seen="none is owed")
    age_s = (database.clock() - oldest).total_seconds()
    observed = f"{count} expired bindings are to be ended at the provider, the oldest for {duration(age_s)}"
    if age_s < RELEASE_WARN_S:
        return Check(name="releases", level=Level.OK, seen=observed)
    todo = "the job `recover` ends them: check that a scheduler runs and that the provider answers unbinds"
    return Check(name="releases", level=Level.WARN, seen=observed, todo=todo)


def of_webhooks(database: Database) -> Check:
    """Return whether deliveries were given up."""
    backlog = database.read(deliveries.backlog, limit=MAX_DELIVERIES_READ)
    dead, pending = backlog[DeliveryState.DEAD], backlog[DeliveryState.PENDING]
    if dead == 0:
        return Check(name="webhooks", level=Level.OK, seen=f"{pending} deliveries wait, none was given up")
    todo = "`bindings webhooks redeliver` sends them again when the receiver works"
    return Check(name="webhooks", level=Level.WARN, seen=f"{dead} deliveries were given up", todo=todo)


def _newest_reports(database: Database) -> Sequence[Report]:
    return database.read(reports.newest, before=None, limit=MAX_REPORTS, cases=False)


def _cause(outcome: Outcome) -> str:
    """Return why a bind failed, in words."""
    if outcome.state is State.IN_DOUBT:
        return "no clear answer of the provider"
    if outcome.provider_status is not None:
        return f"status {outcome.provider_status}, {statuses.meaning(outcome.provider_status)}"
    return "never sent" if outcome.reason == Reason.NEVER_SENT else str(outcome.reason).replace("_", " ")


ACTIVITY_CHECKS: dict[str, Callable[[Database], Check]] = {
    "binds": of_binds,
    "reconciliation": of_reconciliation,
    "releases": of_releases,
    "webhooks": of_webhooks,
    "webhook_encryption": encryption_checks.of_webhooks,
    "feed": feed_check.feed_in_order,
    "replicas": replica_check.replicas_at_work,
}
