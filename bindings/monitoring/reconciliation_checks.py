"""Checks of reconciliations: whether they read the provider's list, often enough, and how long they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.serialization import duration
from bindings.monitoring.check import Check, Level
from bindings.store import job_runs, reports

if TYPE_CHECKING:
    from bindings.settings import Settings
    from bindings.store.read_once import Reads
    from bindings.store.reports import Report

MAX_REPORTS = 20
SLOW_AFTER = 3.0  # intervals; the alert BindingsReconcileSlow has the same number


def of_reconciliation(database: Reads, config: Settings) -> Check:
    """Return whether the last reconciliation could read the provider's list, and is recent."""
    name = "reconciliation"
    reports_read = database.read(reports.newest, before=None, limit=MAX_REPORTS, cases=False)
    runs = [report for report in reports_read if not report.counts.get("dry_run")]
    if not runs:
        return Check(name=name, level=Level.OK, seen=f"none is among the newest {MAX_REPORTS} reports")
    newest = runs[0]
    age_s = (database.clock() - newest.finished_at).total_seconds()
    age = duration(age_s)
    if newest.counts.get("zone_misfit_s"):
        observed = f"the one of {age} ago concluded nothing: the times of the list do not fit ours"
        return Check(name=name, level=Level.RED, seen=observed, todo="check BINDINGS_PROVIDER_ZONE")
    if not newest.read_everything:
        unread = _count_unread(runs, all_read=len(reports_read) < MAX_REPORTS)
        observed = f"the last {unread} did not read and handle the whole list, the newest {age} ago"
        todo = (
            "`bindings reports` has the reasons; until one does, doubts may stay open and foreign bindings be"
            " unseen"
        )
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    if age_s > SLOW_AFTER * config.reconcile_interval_s and not _is_running(database):
        observed = f"the last one ended {age} ago: that is more than three intervals"
        todo = "check that a scheduler runs: until the next one no scan resolves a doubt or finds foreign bindings"
        return Check(name=name, level=Level.WARN, seen=observed, todo=todo)
    return Check(name=name, level=Level.OK, seen=f"the one of {age} ago read all that it needed")


def of_duration(database: Reads, config: Settings) -> Check:
    """Return whether the newest reconciliation on a timer took no longer than three intervals."""
    name = "reconcile_duration"
    run = database.read(job_runs.newest_run, "reconcile", database.now)
    if run is None:
        return Check(name=name, level=Level.OK, seen="no run on a timer is recorded")
    took = duration(run.seconds)
    observed = f"the last one took {took}" if run.finished else f"the last one began {took} ago, has not finished"
    if run.seconds <= SLOW_AFTER * config.reconcile_interval_s:
        return Check(name=name, level=Level.OK, seen=observed)
    todo = (
        "if its process runs, the list is long: raise BINDINGS_RECONCILE_INTERVAL_S, or BINDINGS_SCAN_CALLS_PER_S"
        " if the provider allows it; if not, start `bindings scheduler`"
    )
    observed = f"{observed}: longer than three intervals"
    return Check(name=name, level=Level.WARN, seen=observed, todo=todo)


def _count_unread(runs: list[Report], *, all_read: bool) -> str:
    unread = next((number for number, report in enumerate(runs) if report.read_everything), len(runs))
    return f"{unread} or more" if unread == len(runs) and not all_read else str(unread)


def _is_running(database: Reads) -> bool:
    """Return whether a reconciliation on a timer has begun and not ended: `of_duration` judges it."""
    run = database.read(job_runs.newest_run, "reconcile", database.now)
    return run is not None and not run.finished
