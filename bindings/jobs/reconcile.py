"""Compare with the provider's own list, in both directions, and correct what differs.

Each case is counted and reported; where something changes, an event is written:

- adopted: a binding in doubt that exactly one row of the list matches, and no other doubt of that pair;
- absent: a binding in doubt that two proof scans missed while it would have been listed;
- orphan: a row that matches no binding here; its phones are held until it ends;
- revenant: a live row whose binding has ended here; its phones are held until it ends, as for an orphan;
- ghost: an active binding that two proof scans missed; it ends as gone at the provider;
- drift: a known row that ends sooner (brought forward), later (held longer) or has other middle numbers;
- hold_ended: a hold that the list explains or denies;
- odd_row: a row that does not match the provider's documents; while one is listed, no absence is proved;
- failure: a row or binding whose handling failed; the others are handled.

Here is the order of scans, and the report. What a row of the list leads to is in `reconcile_rows` and
`reconcile_orphans`, what an odd row leads to in `reconcile_odd_rows`, what a missing row leads to in
`reconcile_absences`, what counts as proof in `scan_evidence`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bindings.domain.binding import State
from bindings.domain.hold import HoldReason
from bindings.failpoints import hit
from bindings.jobs import provider_scan, scan_evidence
from bindings.jobs.reconcile_absences import apply_absences, live_bindings_seen, needs_second_scan
from bindings.jobs.reconcile_context import Actions, Findings, ReconcileContext, Suspicion
from bindings.jobs.reconcile_odd_rows import hold_odd_rows, report_odd_rows
from bindings.jobs.reconcile_rows import apply_rows
from bindings.store import account, holds, queries, reports

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.jobs.provider_lists import ProviderLists
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.run_control import RunControl
    from bindings.lifecycle.runtime import Runtime
    from bindings.store.database import Database

_log = logging.getLogger(__name__)

FORWARD_SIZE, BACKWARD_SIZE = 100, 73  # different, so that rows fall on other pages in the second scan
MIN_TIME_LIMIT_S = 600.0  # of one scan
TIME_LIMIT_FACTOR = 3  # times the longest scan of the newest reports: a list may grow between two of them
RECENT_REPORTS = 20
NONE_LISTED = (
    "the list of {} has none of the bindings that are active here: binds wait until a run at least a minute later"
    " has seen the same"
)
LISTED_DOUBTS = (
    "{} binding(s) stay in doubt although a row of the list has their phones, or phones with the same last digits:"
    " more than one row fits, or the row has another mode, end or notation of the phones"
)
UNDER_ANOTHER_ID = (
    "the list has {} active binding(s) under a bindId that is unknown here: they stay active, and their rows are"
    " no orphans"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileResult:
    """What one run found over all applications. With `dry_run` nothing was changed: it counts what a run would do.

    `scans` were read, `incomplete` of them not to the end. `unproved` scans reached the end and prove no absence:
    the list has fewer rows than it says, or `odd_rows`, which do not match the provider's documents. What they
    list is used. `failures` are rows and bindings whose handling failed. `faults` says all of that in words,
    `notes` say what else is remarkable, `suspicions` are the codes of what counts only if later runs see it too.
    `scan_s` is how long the longest scan took. `unresolved` doubts stay open; `observed` cases were only reported,
    because a setting says so. `zone_misfit_s` is how far the provider's times are from ours if that cannot be
    drift: BINDINGS_PROVIDER_ZONE is wrong then, and nothing is concluded.
    `stopped`: the process was asked to end; what was not done is left to the next run.
    `made_good`: this was the full scan that a restored database required, and binds continue. `report_id` names
    the stored report, `reason` is the operator's.
    """

    apps: int = 0
    scans: int = 0
    incomplete: int = 0
    unproved: int = 0
    adopted: int = 0
    absent: int = 0
    ghosts: int = 0
    orphans: int = 0
    revenants: int = 0
    drifted: int = 0
    holds_ended: int = 0
    observed: int = 0
    unresolved: int = 0
    odd_rows: int = 0
    failures: int = 0
    zone_misfit_s: float = 0.0
    scan_s: float = 0.0
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()
    dry_run: bool = False
    stopped: bool = False
    made_good: bool = False
    reason: str | None = None
    report_id: str | None = None

    @property
    def trusted(self) -> bool:
        """Return True if the whole list was read, its times fit ours, and the cases were acted on.

        An odd row is read like every other: what of it could be read was held. A total that no scan reaches proves
        nothing against the rows: two readings agree about them.
        """
        acted = not (self.dry_run or self.stopped)
        return acted and bool(self.apps) and not (self.incomplete or self.failures or self.zone_misfit_s)


def reconcile(
    runtime: Runtime, lists: ProviderLists, *, control: RunControl, dry_run: bool, reason: str | None
) -> ReconcileResult:
    """Scan every list, act on what differs, store the report, and return the counts.

    A stop ends it within the time of one page or one row; the report says so, and the next run reads again. Safe
    to repeat, and to run beside anything else. `Busy` if the database is away.
    """
    database, settings = runtime.database, runtime.settings
    started_at = database.clock()
    full_scan_required = account.full_scan_required_since(database) is not None
    actions = Actions(
        doubt=settings.on_doubt,
        ghost=settings.on_ghost,
        # While a full scan is required, an orphan may be our own binding, which the database has lost.
        orphan="hold" if full_scan_required else settings.on_orphan,
        drift=settings.on_drift,
    )
    context = ReconcileContext(
        runtime=runtime,
        client=runtime.require_client(),
        actions=actions,
        full_scan_required=full_scan_required,
        control=control,
        dry_run=dry_run,
    )
    source = provider_scan.ListSource(
        database=database,
        provider=context.client,
        rate_limiter=lists.rate_limiter,
        clock=runtime.clock,
        control=control,
        time_limit_s=_time_limit_s(database),
    )
    findings = Findings()
    for app_id in control.work_through(_lists(runtime, full_scan_required=full_scan_required)):
        with findings.isolate("reconciliation", app_id):
            _reconcile_app(context, app_id, source, lists, findings)
    return _report(context, findings, started_at=started_at, reason=reason)


def _lists(runtime: Runtime, *, full_scan_required: bool) -> list[str] | list[None]:
    """Return the applications whose lists are to be read; None is the list of the whole account."""
    database, settings = runtime.database, runtime.settings
    if settings.scan_scope == "account":
        return [None]
    # What a restored database has lost may belong to any application that was ever in use.
    app_ids = set(database.read(queries.all_apps if full_scan_required else queries.open_apps))
    app_ids |= database.read(holds.apps, settings.scope, database.clock())
    if settings.provider_app_id is not None:
        app_ids.add(settings.provider_app_id)
    return sorted(app_ids)


def _time_limit_s(database: Database) -> float:
    """Return the time limit of one scan. A scan that the limit ended counts too: the next limit is longer."""
    recent = database.read(reports.newest, before=None, limit=RECENT_REPORTS, cases=False)
    longest_s = max((float(report.counts.get("scan_s", 0.0)) for report in recent), default=0.0)
    return max(MIN_TIME_LIMIT_S, TIME_LIMIT_FACTOR * longest_s)


def _report(
    context: ReconcileContext, findings: Findings, *, started_at: datetime, reason: str | None
) -> ReconcileResult:
    """Store the report; a full scan that was required before `started_at` is completed by this run."""
    database, caller = context.runtime.database, context.runtime.caller
    counts: dict[str, Any] = dict(findings.counts)
    if findings.under_another_id:
        findings.notes.append(UNDER_ANOTHER_ID.format(len(findings.under_another_id)))
    result = ReconcileResult(
        **counts,
        zone_misfit_s=findings.zone_misfit_s,
        scan_s=round(findings.scan_s, 1),
        stopped=context.control.is_stopping(),
        notes=tuple(dict.fromkeys(findings.notes)),
        faults=tuple(dict.fromkeys(findings.scan_faults)),
        suspicions=tuple(sorted(findings.suspicions)),
        dry_run=context.dry_run,
        reason=reason,
    )
    if result.trusted:
        completed = database.write(lambda tx: account.complete_full_scan(tx, caller, scan_started_at=started_at))
        result = replace(result, made_good=completed)
    stored = {name: value for name, value in asdict(result).items() if name != "report_id"}
    report_id = database.write(
        lambda tx: reports.store(tx, caller, began_at=started_at, counts=stored, cases=findings.cases)
    )
    return replace(result, report_id=report_id)


def _reconcile_app(
    context: ReconcileContext,
    app_id: str | None,
    source: provider_scan.ListSource,
    lists: ProviderLists,
    findings: Findings,
) -> None:
    findings.counts["apps"] += 1
    first = _scan(context, app_id, source, findings, size=FORWARD_SIZE)
    lists.remember(first)
    if context.control.is_stopping():
        return
    if abs(first.deviation_s) >= scan_evidence.ZONE_MISFIT_S:
        findings.zone_misfit_s = first.deviation_s
        _log.warning("the provider's times are %+.0f s from ours: check BINDINGS_PROVIDER_ZONE", first.deviation_s)
        return
    hit("reconcile.after_first_scan")
    _apply(context, first, findings)
    if context.control.is_stopping():
        return
    if first.proves_absence and needs_second_scan(context, first, findings):
        second = _scan_again(context, first, source, findings)
        hit("reconcile.after_second_scan")
        apply_absences(context, first, second, findings)
    elif context.full_scan_required and first.complete and not first.total_seen:
        _confirm(context, first, source, findings)
    if context.full_scan_required and first.complete:
        _require_live_binding(context, first, findings)
    unresolved = context.still_unsettled(app_id, findings)
    findings.counts["unresolved"] += len(unresolved)
    listed_pairs = set(map(scan_evidence.last_digits, first.unknown_rows))
    listed_doubts = [
        binding
        for binding in unresolved
        if binding.state is State.IN_DOUBT and scan_evidence.last_digits(binding) in listed_pairs
    ]
    if listed_doubts and context.actions.doubt == "adopt":
        findings.notes.append(LISTED_DOUBTS.format(len(listed_doubts)))


def _apply(context: ReconcileContext, scan: Scan, findings: Findings) -> None:
    apply_rows(context, scan, findings)
    hold_odd_rows(context, scan, findings)


def _confirm(context: ReconcileContext, first: Scan, source: provider_scan.ListSource, findings: Findings) -> None:
    """Read a list again that has fewer rows than it says: if no row is new, its total is wrong and not its rows.

    Binds wait for this scan, so a wrong total alone must not keep it incomplete.
    """
    second = _scan_again(context, first, source, findings)
    _apply(context, second, findings)
    if second.complete and not second.bind_ids <= first.bind_ids:
        findings.counts["incomplete"] += 1
        findings.scan_faults.append("a second reading of the list had other rows than the first")


def _require_live_binding(context: ReconcileContext, scan: Scan, findings: Findings) -> None:
    """Let binds wait if a list has none of the bindings that are active here, until a later run has seen the same.

    A list that is empty for a moment, from a cache or a replica, would otherwise let every phone be bound again.
    """
    live = live_bindings_seen(context, scan, since=scan.started_at, until=scan.ended_at)
    if live.listed_count or not live.missing:
        return
    suspicion = Suspicion.NONE_LISTED.of(scan.app_id)
    findings.suspicions.add(suspicion)
    database = context.runtime.database
    required_since = account.full_scan_required_since(database) or scan.started_at
    a_minute_ago = scan.started_at - scan_evidence.LIST_LAG, str(UUID(int=0))
    earlier = database.read(reports.newest, before=a_minute_ago, limit=RECENT_REPORTS, cases=False)
    if not any(report.began_at >= required_since and report.has_suspicion(suspicion) for report in earlier):
        findings.counts["incomplete"] += 1
        findings.scan_faults.append(NONE_LISTED.format(scan.app_id or "the account"))


def _scan_again(
    context: ReconcileContext, first: Scan, source: provider_scan.ListSource, findings: Findings
) -> Scan:
    """Read the list backwards, with a size that makes rows fall on other pages than in the first scan."""
    page_limit = first.page_limit(FORWARD_SIZE)
    size = BACKWARD_SIZE if page_limit is None else max(1, page_limit * BACKWARD_SIZE // FORWARD_SIZE)
    return _scan(context, first.app_id, source, findings, size=size, backwards_over=first.rows)


def _scan(
    context: ReconcileContext,
    app_id: str | None,
    source: provider_scan.ListSource,
    findings: Findings,
    *,
    size: int,
    backwards_over: int | None = None,
) -> Scan:
    refused = [hold for hold in context.live_holds(app_id) if hold.why is HoldReason.REFUSED]
    watched = frozenset(hold.phone.key for hold in refused)
    scan = provider_scan.read(source, app_id, size=size, backwards_over=backwards_over, watched=watched)
    findings.counts["scans"] += 1
    findings.counts["incomplete"] += not scan.complete
    findings.counts["unproved"] += scan.complete and not scan.proves_absence
    findings.scan_s = max(findings.scan_s, scan.duration_s)
    if scan.error is not None:
        findings.scan_faults.append(scan.error)
    elif not scan.total_seen:
        total = "does not say how many" if scan.total is None else f"says that it has {scan.total}"
        findings.scan_faults.append(f"the list ended after {scan.rows} rows and {total}")
    page_limit = scan.page_limit(size)
    if page_limit is not None:
        findings.notes.append(f"a page of the list has {page_limit} rows at most; {size} were asked for")
    if scan.other_pairs:
        findings.notes.append(
            f"{len(scan.other_pairs)} row(s) have other phones than the binding here with their bindId: no binding"
            " in doubt is proved absent"
        )
    report_odd_rows(scan, findings)
    return scan
