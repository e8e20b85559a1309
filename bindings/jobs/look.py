"""Look for young doubts: read a few pages of the provider's list and adopt the bindings that are on them.

A whole scan of a long list takes minutes to half an hour. The list most likely shows a binding whose response was
lost near our newest ones, so a look reads the pages there. It only adopts: a page that was not read may have
anything, so a look proves no absence and finds no orphan, ghost or drift. It adopts AXB bindings only, because the
provider has at most one AXB of a pair; an AXXB row on a page may be one of two.

A list is looked at while it has a doubt past `settle_by` for which no whole scan has been completed, which began
after the binding must have been listed. After a look that adopted nothing the next one waits, up to a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode, State
from bindings.failpoints import hit
from bindings.jobs import provider_scan, scan_evidence
from bindings.jobs.reconcile_context import Actions, Findings, ReconcileContext
from bindings.jobs.reconcile_rows import adopt_listed, read_again
from bindings.lifecycle.resolution_times import LOOK_PAGES
from bindings.store import account, job_runs, queries, reports

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.jobs.provider_lists import ProviderLists
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.run_control import RunControl
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.reports import Report

PAGE_SIZE = 100
TIME_LIMIT_S = 30.0  # of the reading of one list
MAX_LISTS = 3  # in one run; the others are next
MAX_NEWER = 20_000  # requests after a doubt that are read to count those; what is older is left to a whole scan
RECENT_REPORTS = 20
SHORT_SCAN_S = 15.0  # a whole scan that began less long ago is waited for: if the list is short it is over soon


@dataclass(frozen=True, kw_only=True, slots=True)
class LookResult:
    """What one run did: lists and pages read, bindings adopted, and doubts that are still open in these lists.

    `unread` lists could not be read as far as intended. `failures` are lists and rows whose handling failed.
    `stopped`: the process was asked to end.
    """

    lists: int = 0
    pages: int = 0
    adopted: int = 0
    unresolved: int = 0
    unread: int = 0
    failures: int = 0
    stopped: bool = False


def due_lists(runtime: Runtime, lists: ProviderLists) -> list[str | None]:
    """Return the lists to look at now, the longest waiting first: applications, or None for that of the account.

    None are, if the settings say that a doubt is only reported, while a restored database waits for its full scan,
    or if a whole scan has just begun. Safe to repeat.
    """
    database, settings = runtime.database, runtime.settings
    if settings.on_doubt != "adopt":
        return []
    now = database.clock()
    youngest = database.read(queries.youngest_doubts, now, mode=Mode.AXB)
    if youngest:
        recent = database.read(reports.newest, before=None, limit=RECENT_REPORTS, cases=False)
        scanned_until = _scanned_until(recent, now)
        youngest = {
            app_id: settle_by
            for app_id, settle_by in youngest.items()
            if scanned_until is None or settle_by > scanned_until
        }
    with_doubts: set[str | None] = {None} if youngest and settings.scan_scope == "account" else {*youngest}
    lists.forget_waits(but=with_doubts)
    due = lists.due(with_doubts)
    if not due or _scan_has_just_begun(runtime) or account.full_scan_required_since(database) is not None:
        return []
    return due


def _scanned_until(recent: list[Report], now: datetime) -> datetime | None:
    """Return the latest `settle_by` of a binding that the newest whole scan must have seen, if it was made.

    A report of the future, from before the database's clock was set back, is of no scan of a doubt of now.
    """
    past = (report for report in recent if report.began_at <= now)
    whole = (report for report in past if report.read_everything and not report.counts.get("dry_run"))
    newest = next(whole, None)
    return None if newest is None else newest.began_at - scan_evidence.LIST_LAG


def _scan_has_just_begun(runtime: Runtime) -> bool:
    run = runtime.database.read(job_runs.newest_run, "reconcile", runtime.database.now)
    return run is not None and not run.finished and run.seconds < SHORT_SCAN_S


def look(runtime: Runtime, lists: ProviderLists, control: RunControl) -> LookResult:
    """Look at the lists that are due, adopt the doubts that are seen, and return the counts.

    A stop ends it within the time of one page. Safe to repeat and to run beside anything else. `Busy` if the
    database is away.
    """
    context = ReconcileContext(
        runtime=runtime,
        client=runtime.require_client(),
        actions=Actions(doubt=runtime.settings.on_doubt),
        full_scan_required=False,
        control=control,
        dry_run=False,
    )
    source = provider_scan.ListSource(
        database=runtime.database,
        provider=context.client,
        rate_limiter=lists.rate_limiter,
        clock=runtime.clock,
        control=control,
        time_limit_s=TIME_LIMIT_S,
        attempts=1,
    )
    findings = Findings()
    for app_id in control.work_through(due_lists(runtime, lists)[:MAX_LISTS]):
        adopted_before = findings.counts["adopted"]
        with findings.isolate("look", app_id):
            _look_at(context, app_id, source, lists, findings)
        lists.record_look(app_id, adopted=findings.counts["adopted"] > adopted_before)
    counts = findings.counts
    return LookResult(
        lists=counts["lists"],
        pages=counts["pages"],
        adopted=counts["adopted"],
        unresolved=counts["unresolved"],
        unread=counts["unread"],
        failures=counts["failures"],
        stopped=control.is_stopping(),
    )


def _look_at(
    context: ReconcileContext,
    app_id: str | None,
    source: provider_scan.ListSource,
    lists: ProviderLists,
    findings: Findings,
) -> None:
    doubts = _adoptable(context.unsettled(app_id), context.runtime.database.clock())
    scan = provider_scan.read_part(
        source,
        app_id,
        size=PAGE_SIZE,
        max_pages=LOOK_PAGES,
        near=lists.newest(app_id),
        newer_counts=_newer_counts(context, doubts, app_id),
        is_enough=lambda scan: all(_is_listed(doubt, scan) for doubt in doubts),
    )
    lists.remember(scan)
    findings.counts["lists"] += 1
    findings.counts["pages"] += scan.pages_read
    findings.counts["unread"] += scan.error is not None
    hit("look.after_pages")
    if abs(scan.deviation_s) >= scan_evidence.ZONE_MISFIT_S:
        return  # the times of the list are not ours: the next whole scan says so
    unsettled = context.unsettled(app_id)
    unknown_rows, _ = read_again(context, scan)
    adoptable = {doubt.id for doubt in _adoptable(unsettled, scan.started_at)}
    adopt_listed(context, scan, unknown_rows, unsettled, findings, may_adopt=lambda doubt: doubt.id in adoptable)
    findings.counts["unresolved"] += len(_adoptable(context.unsettled(app_id), scan.ended_at))


def _adoptable(unsettled: list[Binding], at: datetime) -> list[Binding]:
    """Return those that a look may adopt at the instant `at`, if the list has them."""
    return [
        intent
        for intent in unsettled
        if intent.state is State.IN_DOUBT and intent.mode is Mode.AXB and intent.settle_by <= at
    ]


def _newer_counts(context: ReconcileContext, doubts: list[Binding], app_id: str | None) -> list[int]:
    """Return how many of our active bindings are newer than each of the youngest doubts."""
    youngest = sorted(doubts, key=lambda doubt: doubt.requested_at, reverse=True)[:LOOK_PAGES]
    count = context.runtime.database.read
    return [
        count(queries.count_active_since, app_id, since=doubt.requested_at, limit=MAX_NEWER) for doubt in youngest
    ]


def _is_listed(doubt: Binding, scan: Scan) -> bool:
    rows = [*scan.unknown_rows, *(row for row, _ in scan.ended_here)]
    return any(scan_evidence.same_pair(row, doubt) for row in rows)
