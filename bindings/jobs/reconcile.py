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

from bindings.failpoints import hit
from bindings.jobs import provider_scan, scan_evidence
from bindings.jobs.reconcile_absences import apply_absences, needs_second_scan
from bindings.jobs.reconcile_context import Actions, Findings, ReconcileContext
from bindings.jobs.reconcile_odd_rows import hold_odd_rows, report_odd_rows
from bindings.jobs.reconcile_rows import apply_rows
from bindings.store import account, holds, queries, reports

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.jobs.provider_scan import Scan
    from bindings.lifecycle.runtime import Runtime

_log = logging.getLogger(__name__)

FORWARD_SIZE, BACKWARD_SIZE = 100, 73  # different, so that rows fall on other pages in the second scan


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileResult:
    """What one run found over all applications; with `dry_run` nothing was changed.

    `scans` were read, `incomplete` of them not to the end; `faults` says why. `odd_rows` do not match the
    provider's documents: what else is listed is used, but no binding is proved absent. `failures` are rows and
    bindings whose handling failed; `faults` names both. `unresolved` doubts stay open;
    `observed` cases were only reported, because a setting says so. `zone_misfit_s` is how far the provider's times
    are from ours if that cannot be drift: BINDINGS_PROVIDER_ZONE is wrong then, and nothing is concluded.
    `made_good`: this was the full scan that a restored database required, and binds continue. `report_id` names
    the stored report, `reason` is the operator's.
    """

    apps: int = 0
    scans: int = 0
    incomplete: int = 0
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
    faults: tuple[str, ...] = ()
    dry_run: bool = False
    made_good: bool = False
    reason: str | None = None
    report_id: str | None = None

    @property
    def trusted(self) -> bool:
        """True if the whole list was read, its times fit ours, and the cases were acted on.

        An odd row is read like every other: what of it could be read was held.
        """
        return bool(self.apps) and not (self.incomplete or self.failures or self.zone_misfit_s or self.dry_run)


def reconcile(runtime: Runtime, *, dry_run: bool, reason: str | None) -> ReconcileResult:
    """Scan every list, act on what differs, store the report, and return the counts.

    Safe to repeat, and to run beside anything else. `Busy` if the database is away.
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
    context = ReconcileContext(runtime=runtime, client=runtime.require_client(), actions=actions, dry_run=dry_run)
    rate_limiter = provider_scan.RateLimiter(settings.scan_calls_per_s, clock=runtime.clock)
    findings = Findings()
    for app_id in _lists(runtime, full_scan_required=full_scan_required):
        _reconcile_app(context, app_id, rate_limiter, findings)
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


def _report(
    context: ReconcileContext, findings: Findings, *, started_at: datetime, reason: str | None
) -> ReconcileResult:
    """Store the report; a full scan that was required before `started_at` is completed by this run."""
    database, caller = context.runtime.database, context.runtime.caller
    counts: dict[str, Any] = dict(findings.counts)
    result = ReconcileResult(
        **counts,
        zone_misfit_s=findings.zone_misfit_s,
        faults=tuple(dict.fromkeys(findings.scan_faults)),
        dry_run=context.dry_run,
        reason=reason,
    )
    if result.trusted:
        completed = database.write(lambda tx: account.complete_full_scan(tx, scan_started_at=started_at))
        result = replace(result, made_good=completed)
    stored = {name: value for name, value in asdict(result).items() if name != "report_id"}
    report_id = database.write(
        lambda tx: reports.store(tx, caller, began_at=started_at, counts=stored, cases=findings.cases)
    )
    return replace(result, report_id=report_id)


def _reconcile_app(
    context: ReconcileContext, app_id: str | None, rate_limiter: provider_scan.RateLimiter, findings: Findings
) -> None:
    findings.counts["apps"] += 1
    first = _scan(context, app_id, rate_limiter, findings, size=FORWARD_SIZE)
    if abs(first.deviation_s) >= scan_evidence.ZONE_MISFIT_S:
        findings.zone_misfit_s = first.deviation_s
        _log.warning("the provider's times are %+.0f s from ours: check BINDINGS_PROVIDER_ZONE", first.deviation_s)
        return
    hit("reconcile.after_first_scan")
    apply_rows(context, first, findings)
    hold_odd_rows(context, first, findings)
    if first.proves_absence and needs_second_scan(context, first):
        second = _scan(context, app_id, rate_limiter, findings, size=BACKWARD_SIZE, backwards=True)
        hit("reconcile.after_second_scan")
        apply_absences(context, first, second, findings)
    findings.counts["unresolved"] += len(context.unsettled(app_id))


def _scan(
    context: ReconcileContext,
    app_id: str | None,
    rate_limiter: provider_scan.RateLimiter,
    findings: Findings,
    *,
    size: int,
    backwards: bool = False,
) -> Scan:
    refused = [hold for hold in context.live_holds(app_id) if hold.why is holds.HoldReason.REFUSED]
    scan = provider_scan.read(
        context.runtime.database,
        context.client,
        app_id,
        rate_limiter=rate_limiter,
        size=size,
        backwards=backwards,
        watched=frozenset(hold.phone.key for hold in refused),
    )
    findings.counts["scans"] += 1
    findings.counts["incomplete"] += not scan.complete
    if scan.error is not None:
        findings.scan_faults.append(scan.error)
    report_odd_rows(scan, findings)
    return scan
