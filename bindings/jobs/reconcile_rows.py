"""Acts on the rows of one scan: adopts doubts, follows drift, and passes on orphans and revenants.

One scan is enough for these. What a missing row leads to is in `reconcile_absences`, holds are in
`reconcile_orphans`; which row fits which binding is decided in `scan_evidence`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.takeover import takeover_detail
from bindings.failpoints import hit
from bindings.jobs import scan_evidence
from bindings.jobs.reconcile_orphans import (
    end_explained_holds,
    hold_live_rows,
    orphan_holds,
    orphans_among,
    revenants_among,
    rows_of_other_pairs,
)
from bindings.store import queries, settle
from bindings.store.bindings import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.jobs.scan_evidence import ClockTolerance
    from bindings.provider.outcome import ProviderBinding
    from bindings.store.database import Transaction


def apply_rows(context: ReconcileContext, scan: Scan, findings: Findings) -> None:
    """Act on every row of a scan that differs from what is recorded here, or is unknown here."""
    tolerance = context.tolerance
    impossible_ends = sum(
        scan_evidence.ends_before_request(row, binding, tolerance) for row, binding in scan.differing
    )
    if impossible_ends:
        findings.notes.append(
            f"{impossible_ends} row(s) have an end before our binding was requested: that end is not used; the"
            " provider may write it in another time zone"
        )
    for row, binding in context.control.work_through(scan.differing):
        with findings.isolate("drift", scan.app_id, bind_id=row.bind_id):
            _apply_drift(context, row, binding, tolerance, findings)
    unsettled = context.unsettled(None)
    unknown_rows, living_ids = read_again(context, scan)
    adopt_listed(context, scan, unknown_rows, unsettled, findings)
    owed_bind_ids = context.bind_ids_to_release(scan.app_id)

    def holds_phones(row: ProviderBinding) -> bool:
        matches_unsettled = any(scan_evidence.same_pair(row, intent) for intent in unsettled)
        is_live = not scan_evidence.has_ended(row, scan.ended_at, tolerance)
        return is_live and not matches_unsettled and row.bind_id not in owed_bind_ids

    orphans = orphans_among(context, filter(holds_phones, unknown_rows), scan.app_id, findings)
    held_until = orphan_holds(context, scan.app_id)
    hold_live_rows(context, orphans, held_until, findings)
    ended_here = [(row, binding) for row, binding in scan.ended_here if holds_phones(row)]
    hold_live_rows(context, revenants_among(ended_here, scan), held_until, findings)
    other_pairs = [(row, binding) for row, binding in scan.other_pairs if holds_phones(row)]
    hold_live_rows(context, rows_of_other_pairs(other_pairs), held_until, findings)
    if not context.control.is_stopping():
        end_explained_holds(context, scan, living_ids, findings)


def adopt_listed(
    context: ReconcileContext,
    scan: Scan,
    unknown_rows: list[ProviderBinding],
    unsettled: list[Binding],
    findings: Findings,
    *,
    may_adopt: Callable[[Binding], bool] = lambda _: True,
) -> None:
    """Adopt the doubts that a row of a scan settles, if `may_adopt` returns True for them.

    `unsettled` and `unknown_rows` were read in this order, after the pages.
    """
    tolerance = context.tolerance
    unsettled_here = [intent for intent in unsettled if scan.app_id in (None, intent.app_id)]
    # A bind_id may be used again: the row of an ended binding may be that of a doubt, unless it may be stale.
    # With an end at the same instant, the predecessor of a successor in doubt has every mark of it.
    candidates = unknown_rows + [row for row, _ in scan.ended_here]
    stale_ids = {
        row.bind_id for row, ended in scan.ended_here if scan_evidence.may_be_stale(ended, scan.started_at)
    }
    adoptions = [
        (doubt, row)
        for doubt, row in scan_evidence.adoptions(candidates, unsettled_here, scan.ended_at, tolerance)
        if may_adopt(doubt) and row.bind_id not in stale_ids
    ]
    for doubt, row in context.control.work_through(adoptions):
        with findings.isolate("adoption", scan.app_id, bind_id=row.bind_id):
            if _adopt(context, doubt, row, tolerance, findings):
                findings.record(
                    "adopted", doubt.app_id, action=context.actions.doubt, binding_id=doubt.id, bind_id=row.bind_id
                )


def read_again(context: ReconcileContext, scan: Scan) -> tuple[list[ProviderBinding], set[str]]:
    """Return the rows that are still unknown here, and the ids of those that a living binding has by now.

    An answer may have settled a binding since its page was compared.
    """
    ids = [row.bind_id for row in scan.unknown_rows]
    bindings_by_bind_id = context.runtime.database.read(queries.by_bind_ids, ids)
    unknown_rows, living_ids = [], set()
    for row in scan.unknown_rows:
        binding = scan_evidence.binding_of(row, bindings_by_bind_id.get(row.bind_id, ()), scan.app_id)
        if binding is None:
            unknown_rows.append(row)
        elif not binding.state.terminal:
            living_ids.add(row.bind_id)
    return unknown_rows, living_ids


def _adopt(
    context: ReconcileContext,
    doubt: Binding,
    row: ProviderBinding,
    tolerance: ClockTolerance,
    findings: Findings,
) -> bool:
    if context.observe_only(context.actions.doubt):
        if context.actions.doubt == "adopt":
            findings.would_settle.add(doubt.id)
        return True
    numbers = (row.middle_number_a, row.middle_number_b)
    if row.phone_a == doubt.phone_b:
        numbers = numbers[::-1]
    sent_at = doubt.sent_at or doubt.requested_at
    listed_end = row.ends_at - tolerance.error
    guard = context.guard(doubt.provider_expire_s)

    def work(tx: Transaction) -> Binding | None:
        success = settle.Success(
            bind_id=row.bind_id,
            middle_number_a=numbers[0],
            middle_number_b=numbers[1],
            sent_at=sent_at,
            answered_at=tx.instant(),
            expires_at=min(sent_at + timedelta(seconds=doubt.expire_s), listed_end),
            provider_expires_at=None
            if doubt.max_expire_s is None
            else min(sent_at + timedelta(seconds=doubt.max_expire_s), listed_end),
            held_until=max(doubt.held_until, row.ends_at + tolerance.error + guard),
            warn_s=doubt.warn_s,
            takeover=_takeover(tx, doubt, numbers),
        )
        adopted = settle.adopt(tx, doubt.id, context.runtime.caller, success)
        hit("reconcile.adopt_in_transaction")
        return adopted

    adopted = context.runtime.database.write(work)
    hit("reconcile.after_adopt")
    return adopted is not None


def _takeover(tx: Transaction, doubt: Binding, numbers: tuple[str, ...]) -> dict[str, Any] | None:
    """Return what the event says of a takeover; None for a binding without a predecessor that is recorded here."""
    predecessor = None if doubt.replaces is None else find(tx.connection, doubt.replaces)
    if predecessor is None:
        return None
    return takeover_detail(predecessor, dict(zip((doubt.phone_a, doubt.phone_b), numbers, strict=True)))


def _apply_drift(
    context: ReconcileContext,
    row: ProviderBinding,
    binding: Binding,
    tolerance: ClockTolerance,
    findings: Findings,
) -> None:
    earlier_end = scan_evidence.shorter_end(row, binding, tolerance)
    later_hold = scan_evidence.longer_hold(row, binding, context.guard(binding.provider_expire_s), tolerance)
    other_numbers = not scan_evidence.same_numbers(row, binding)
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
        lambda tx: settle.apply_drift(tx, binding, runtime.caller, provider_end=earlier_end, held_until=later_hold)
    )
