"""Acts on the rows of one scan: adopts doubts, holds orphans, follows drift, and ends holds that a row explains.

One scan is enough for these. What a missing row leads to is in `reconcile_absences`; which row fits which binding
is decided in `scan_evidence`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.failpoints import hit
from bindings.jobs import provider_scan, scan_evidence
from bindings.provider.outcome import UnbindNotFound, UnbindSucceeded
from bindings.store import holds, queries, settle

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.jobs.scan_evidence import ClockTolerance
    from bindings.provider.outcome import ProviderBinding
    from bindings.store.database import Transaction


def apply_rows(context: ReconcileContext, scan: Scan, findings: Findings) -> None:
    """Act on every row of a scan that differs from what is recorded here, or is unknown here."""
    tolerance = context.clock_tolerance()
    for row, binding in scan.differing:
        with findings.isolate("drift", scan.app_id, bind_id=row.bind_id):
            _apply_drift(context, row, binding, tolerance, findings)
    unsettled = context.unsettled(scan.app_id)
    # Read again: an answer may have settled a binding since its page was compared.
    ids = [row.bind_id for row in scan.unknown_rows]
    bindings_by_bind_id = context.runtime.database.read(queries.by_bind_ids, scan.app_id, ids)
    unknown_rows = [row for row in scan.unknown_rows if row.bind_id not in bindings_by_bind_id]
    for doubt, row in scan_evidence.adoptions(unknown_rows, unsettled, scan.ended_at, tolerance):
        with findings.isolate("adoption", scan.app_id, bind_id=row.bind_id):
            if _adopt(context, doubt, row, tolerance):
                findings.record(
                    "adopted", scan.app_id, action=context.actions.doubt, binding_id=doubt.id, bind_id=row.bind_id
                )
    for row in unknown_rows:
        with findings.isolate("hold", scan.app_id, bind_id=row.bind_id):
            matches_unsettled = any(scan_evidence.same_pair(row, intent) for intent in unsettled)
            if not scan_evidence.has_ended(row, scan.ended_at, tolerance) and not matches_unsettled:
                _handle_orphan(context, row, scan.app_id, tolerance, findings)
    _end_explained_holds(context, scan, set(bindings_by_bind_id), findings)


def _adopt(context: ReconcileContext, doubt: Binding, row: ProviderBinding, tolerance: ClockTolerance) -> bool:
    if context.observe_only(context.actions.doubt):
        return True
    numbers = (row.middle_number_a, row.middle_number_b)
    if row.phone_a == doubt.phone_b:
        numbers = numbers[::-1]
    sent_at = doubt.sent_at or doubt.requested_at
    guard = context.guard(doubt.expire_s)

    def work(tx: Transaction) -> Binding | None:
        success = settle.Success(
            bind_id=row.bind_id,
            middle_number_a=numbers[0],
            middle_number_b=numbers[1],
            sent_at=sent_at,
            answered_at=tx.instant(),
            expires_at=min(sent_at + timedelta(seconds=doubt.expire_s), row.ends_at - tolerance.error),
            held_until=max(doubt.held_until, row.ends_at + tolerance.error + guard),
            warn_s=doubt.warn_s,
        )
        adopted = settle.adopt(tx, doubt.id, context.runtime.caller, success)
        hit("reconcile.adopt_in_transaction")
        return adopted

    adopted = context.runtime.database.write(work)
    hit("reconcile.after_adopt")
    return adopted is not None


def _handle_orphan(
    context: ReconcileContext,
    row: ProviderBinding,
    app_id: str,
    tolerance: ClockTolerance,
    findings: Findings,
) -> None:
    """Hold the phones of an unknown row; if it matches an ended intent, that is recorded as its origin."""
    ended = context.runtime.database.read(queries.ended_without_bind_id, app_id, row)
    origin = next((intent for intent in ended if scan_evidence.matches_intent(row, intent, tolerance)), None)
    origin_id = None if origin is None else origin.id
    action = context.actions.orphan
    is_new = context.observe_only(action) or _hold(context, row, app_id, origin_id, tolerance)
    if action == "release" and not context.dry_run:
        _release(context, row, app_id)
    if is_new:
        findings.record(
            "orphans", app_id, action=action, bind_id=row.bind_id, origin_id=origin_id, ends_at=row.ends_at
        )


def _hold(
    context: ReconcileContext,
    row: ProviderBinding,
    app_id: str,
    origin_id: str | None,
    tolerance: ClockTolerance,
) -> bool:
    def work(tx: Transaction) -> bool:
        return holds.hold_orphan(
            tx,
            context.runtime.caller,
            phones=(row.phone_a, row.phone_b),
            scope=context.runtime.settings.scope,
            app_id=app_id,
            bind_id=row.bind_id,
            origin_id=origin_id,
            held_until=row.ends_at + tolerance.error + context.guard_after(row.ends_at, tx.instant()),
        )

    return context.runtime.database.write(work)


def _release(context: ReconcileContext, row: ProviderBinding, app_id: str) -> None:
    runtime = context.runtime
    outcome = context.client.unbind(app_id=app_id, bind_id=row.bind_id)
    if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
        released = [hold for hold in context.live_holds(app_id) if hold.bind_id == row.bind_id]
        guard_s = runtime.settings.guard_for(0) if isinstance(outcome, UnbindNotFound) else 0.0
        runtime.database.write(
            lambda tx: holds.end_holds(tx, runtime.caller, released, reason="released", guard_s=guard_s)
        )


def _apply_drift(
    context: ReconcileContext,
    row: ProviderBinding,
    binding: Binding,
    tolerance: ClockTolerance,
    findings: Findings,
) -> None:
    earlier_end = scan_evidence.shorter_end(row, binding, tolerance)
    later_hold = scan_evidence.longer_hold(row, binding, context.guard(binding.expire_s), tolerance)
    other_numbers = not provider_scan.same_numbers(row, binding)
    if earlier_end is None and later_hold is None and not other_numbers:
        return
    findings.record(
        "drifted",
        binding.app_id,
        action=context.actions.drift,
        binding_id=binding.id,
        bind_id=row.bind_id,
        expires_at=earlier_end,
        held_until=later_hold,
        middle_numbers="differ" if other_numbers else None,
    )
    if (earlier_end is None and later_hold is None) or context.observe_only(context.actions.drift):
        return
    runtime = context.runtime
    runtime.database.write(
        lambda tx: settle.apply_drift(tx, binding, runtime.caller, expires_at=earlier_end, held_until=later_hold)
    )


def _end_explained_holds(
    context: ReconcileContext, scan: Scan, known_bind_ids: set[str], findings: Findings
) -> None:
    """End holds whose cause is now known: a row of the list, or a binding that is recorded here after all."""
    explained = [
        hold
        for hold in context.live_holds(scan.app_id)
        if (hold.why is holds.HoldReason.REFUSED and hold.phone.key in scan.listed)
        or (hold.why is holds.HoldReason.ORPHAN and hold.bind_id in known_bind_ids)
    ]
    context.end_holds(explained, "explained", scan.app_id, findings)
