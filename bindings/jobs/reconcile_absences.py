"""Acts on what two proof scans do not list: ends ghosts, fails absent doubts, and ends denied holds.

What a row that is listed leads to is in `reconcile_rows`; what the scans prove is decided in `scan_evidence`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Reason, State
from bindings.domain.hold import HoldReason
from bindings.jobs import scan_evidence
from bindings.jobs.reconcile_context import Suspicion
from bindings.jobs.scan_evidence import LiveBindingsListed
from bindings.store import holds, queries, reports, settle
from bindings.store.bindings import get

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.jobs.id_set import IdSet
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.store.database import Transaction

# Up to so many missing bindings, or up to this share of the live ones, are ended as soon as two scans miss them.
FEW_MISSING = 10
FEW_MISSING_SHARE = 0.1
LONG_MISSED = timedelta(minutes=10)
REPORTS_OF_LONG_MISSED = 700  # a run may begin every second


def needs_second_scan(context: ReconcileContext, scan: Scan, findings: Findings) -> bool:
    """Return True if a second scan could prove something that the first one left open."""
    tolerance = context.tolerance
    return bool(
        live_bindings_seen(context, scan, since=scan.started_at, until=scan.ended_at).missing
        or any(
            scan_evidence.absence_provable(doubt, scan, scan, tolerance)
            for doubt in context.still_unsettled(scan.app_id, findings)
        )
        or _unlisted_holds(context, scan.app_id, (scan.bind_ids,), scan.listed)
    )


def apply_absences(context: ReconcileContext, first: Scan, second: Scan, findings: Findings) -> None:
    """Act on what both scans missed: end ghosts; if there are none, fail absent doubts and end denied holds.

    Nothing is concluded from a missing row while the list shows a binding again that was ended here because two
    scans missed it. Phones are not looked for in a list that has other phones for a binding than are recorded.
    """
    if _shows_ended_ghosts(first, second, findings):
        return
    since, until = first.started_at, second.ended_at
    live = live_bindings_seen(context, first, since=since, until=until)
    ghosts = scan_evidence.ghosts(
        first, second, live, live_bindings_seen(context, second, since=since, until=until)
    )
    if ghosts is None or not _may_end(context, first, live, findings):
        return
    app_id, tolerance = first.app_id, context.tolerance
    for binding_id in context.control.work_through(sorted(ghosts - findings.under_another_id)):
        with findings.isolate("ghost", app_id, binding_id=binding_id):
            if context.observe_only(context.actions.ghost) or _end_ghost(context, binding_id):
                findings.record("ghosts", app_id, action=context.actions.ghost, binding_id=binding_id)
    if ghosts or context.control.is_stopping():
        return  # scans that miss what should be listed prove no other absence; the next ones may
    has_our_phones = not (first.other_pairs or second.other_pairs)
    listed_pairs = set(map(scan_evidence.last_digits, first.unexplained_rows + second.unexplained_rows))
    for doubt in context.control.work_through(context.still_unsettled(app_id, findings)):
        is_listed = scan_evidence.last_digits(doubt) in listed_pairs
        is_provable = has_our_phones and scan_evidence.absence_provable(doubt, first, second, tolerance)
        if is_listed or not is_provable:
            continue
        with findings.isolate("absence", app_id, binding_id=doubt.id):
            if _fail_absent(context, doubt, findings):
                findings.record("absent", doubt.app_id, action=context.actions.doubt, binding_id=doubt.id)
    if context.control.is_stopping():
        return
    listed_bind_ids = first.bind_ids, second.bind_ids
    denied = [
        hold
        for hold in _unlisted_holds(context, app_id, listed_bind_ids, first.listed | second.listed)
        if has_our_phones or hold.why is HoldReason.ORPHAN
    ]
    context.end_holds(denied, "denied", app_id, findings)


def _shows_ended_ghosts(first: Scan, second: Scan, findings: Findings) -> bool:
    """Return True, with a note, if a live row is a binding that was ended here as gone at the provider."""
    ended_as_gone = {
        binding.id
        for _, binding in first.ended_here + second.ended_here
        if binding.reason == Reason.GONE_AT_PROVIDER
    }
    if ended_as_gone:
        findings.notes.append(
            f"the list shows {len(ended_as_gone)} binding(s) again that were ended as gone at the provider: what"
            " is missing now is not taken for ended"
        )
    return bool(ended_as_gone)


def _may_end(context: ReconcileContext, scan: Scan, live: LiveBindingsListed, findings: Findings) -> bool:
    """Return False, with a note, if many bindings are missing that runs have not missed for some time.

    A part of the list may be away for minutes: every scan lacks the same rows then.
    """
    missing, total = len(live.missing), len(live.missing) + live.listed_count
    if missing <= max(FEW_MISSING, FEW_MISSING_SHARE * total):
        return True
    suspicion = Suspicion.MANY_MISSING.of(scan.app_id)
    findings.suspicions.add(suspicion)
    findings.notes.append(
        f"the list lacks many bindings of {scan.app_id or 'the account'}: {missing} of {total} active here; they"
        " are ended when every run that read the whole list has missed many for 10 minutes"
    )
    now = context.runtime.database.clock()
    missed_since = now
    for report in context.runtime.database.read(
        reports.newest, before=None, limit=REPORTS_OF_LONG_MISSED, cases=False
    ):
        if report.has_suspicion(suspicion):
            missed_since = min(missed_since, report.began_at)
        elif report.proves_absence:
            break
    return now - missed_since >= LONG_MISSED


def live_bindings_seen(
    context: ReconcileContext, scan: Scan, *, since: datetime, until: datetime
) -> LiveBindingsListed:
    """Return which bindings a scan lists of those that must be in a list read between `since` and `until`."""
    missing, listed_count = set(), 0
    answered_before = since - scan_evidence.LIST_LAG
    live = context.runtime.database.stream(
        queries.must_be_listed, scan.app_id, since=answered_before, until=until
    )  # there may be a million
    for binding_id, bind_id in live:
        if bind_id in scan.bind_ids:
            listed_count += 1
        else:
            missing.add(binding_id)
    return LiveBindingsListed(missing=frozenset(missing), listed_count=listed_count)


def _fail_absent(context: ReconcileContext, doubt: Binding, findings: Findings) -> bool:
    if context.observe_only(context.actions.doubt):
        if context.actions.doubt == "adopt":
            findings.would_settle.add(doubt.id)
        return True
    caller = context.runtime.caller

    def work(tx: Transaction) -> Binding:
        context.runtime.clocks.verify(tx.instant())
        status = doubt.provider_status
        return settle.settle_failed(tx, doubt.id, caller, reason=Reason.ABSENT, status=status, detail={})

    return context.runtime.database.write(work).state is State.FAILED


def _end_ghost(context: ReconcileContext, binding_id: str) -> bool:
    runtime = context.runtime

    def work(tx: Transaction) -> Binding:
        now = tx.instant()
        runtime.clocks.verify(now)
        guard_s = runtime.guard_s(get(tx, binding_id))
        return settle.settle_unbound(
            tx, binding_id, runtime.caller, reason=Reason.GONE_AT_PROVIDER, ended_at=now, guard_s=guard_s
        )

    return runtime.database.write(work).reason == Reason.GONE_AT_PROVIDER


def _unlisted_holds(
    context: ReconcileContext, app_id: str | None, listed_bind_ids: tuple[IdSet, ...], listed_phones: set[str]
) -> list[holds.Hold]:
    """Return the holds that no live row explains. `listed_phones` are the keys of refused phones in live rows."""
    return [
        hold
        for hold in context.live_holds(app_id)
        # Refused again after a denial: what holds the phone is in no list that this account can read.
        if (hold.why is HoldReason.REFUSED and hold.strikes == 1 and hold.phone.key not in listed_phones)
        or (hold.why is HoldReason.ORPHAN and not any(hold.bind_id in bind_ids for bind_ids in listed_bind_ids))
    ]
