"""Which values the checks, the metrics and the overview read of the database as one statement.

A query that is missing here, or has other arguments here than where it is read, is a statement of its own there:
the result is the same, and a test counts the statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.monitoring import activity_checks
from bindings.monitoring.health_metrics import MAX_DELIVERIES_READ, MAX_DOUBTS_READ, MAX_RELEASES_READ
from bindings.store import (
    account,
    cluster_move,
    deliveries,
    durability,
    events,
    holds,
    job_runs,
    phone_sealing,
    protection,
    queries,
    refusals,
    seals,
    statistics,
)
from bindings.store.one_row import call
from bindings.store.read_once import ReadOnce

if TYPE_CHECKING:
    from bindings.settings import Settings
    from bindings.store.database import Database
    from bindings.store.one_row import Call


def reads_of_readiness(database: Database, config: Settings) -> ReadOnce:
    """Return the database for one run of the checks of readiness."""
    return ReadOnce(database, _of_readiness(database, config))


def reads_of_all(database: Database, config: Settings) -> ReadOnce:
    """Return the database for one run of all checks, or for the overview."""
    now = database.now
    of_events = [
        call(events.oldest_not_final),
        call(seals.last),
        call(seals.oldest_unsealed),
        call(statistics.counted_to),
        call(deliveries.backlog, limit=MAX_DELIVERIES_READ),
        call(deliveries.waiting_since, now),
    ]
    of_bindings = [
        call(queries.longest_overdue, now),
        call(queries.count_releases_owed, now, limit=MAX_RELEASES_READ),
        call(job_runs.last_finished, "pools"),
        call(refusals.count_account_refusals, now, period=activity_checks.PERIOD, limit=activity_checks.MAX_BINDS),
    ]
    of_account = [call(phone_sealing.status), call(protection.maintenance_until)]
    of_server = [call(cluster_move.numbers), call(protection.role)] if database.postgres else []
    return ReadOnce(
        database, [*_of_readiness(database, config), *of_events, *of_bindings, *of_account, *of_server]
    )


def _of_readiness(database: Database, config: Settings) -> list[Call]:
    now = database.now
    return [
        call(account.recorded_scope),
        call(account.phone_key_checks),
        call(account.required_since),
        call(durability.weak_settings),
        call(job_runs.last_finished, "expire"),
        call(job_runs.newest_run, "reconcile", now),
        call(queries.count_doubts, now, limit=MAX_DOUBTS_READ),
        call(holds.count_orphans, config.scope, now),
    ]
