"""Holds the phones of live rows that none of our live bindings explains: orphans and revenants.

An orphan is a row that is not ours. A revenant is a row of a binding that has ended here: the list hid it, and it
looked gone; or the provider took an unbind back; or the database was restored. The provider holds the phones of
both, so both become a hold until the end that the list shows; the binding that has ended stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.jobs import scan_evidence
from bindings.provider.outcome import UnbindSucceeded
from bindings.store import holds, queries
from bindings.store.reserve import find_holding_rows

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.provider.outcome import ProviderBinding
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class _LiveRow:
    """A live row to be held, its application if that is known, and our binding that it came from, if it did.

    It is not held again if a hold of it has ended after `released_since`.
    """

    row: ProviderBinding
    app_id: str
    origin_id: str | None
    released_since: datetime | None = None


def handle_orphan(context: ReconcileContext, row: ProviderBinding, app_id: str | None, findings: Findings) -> None:
    """Hold the phones of an unknown row; if it matches an ended intent, that is recorded as its origin."""
    ended, tolerance = context.runtime.database.read(queries.ended_without_bind_id, row), context.tolerance
    origin = next((intent for intent in ended if scan_evidence.matches_intent(row, intent, tolerance)), None)
    live_row = _LiveRow(row=row, app_id=app_id or holds.NO_APP, origin_id=None if origin is None else origin.id)
    if _hold_or_release(context, live_row, findings):
        findings.record(
            "orphans",
            app_id,
            action=_action(context, live_row),
            bind_id=row.bind_id,
            origin_id=live_row.origin_id,
            ends_at=row.ends_at,
        )


def handle_revenant(
    context: ReconcileContext, row: ProviderBinding, binding: Binding, scan: Scan, findings: Findings
) -> None:
    """Hold the phones of a live row whose binding has ended here, unless the list may be older than that end."""
    if not scan_evidence.is_revenant(row, binding, scan.started_at):
        return
    live_row = _LiveRow(
        row=row,
        app_id=binding.app_id,
        origin_id=binding.id,
        released_since=scan.started_at - scan_evidence.LIST_LAG,
    )
    if _hold_or_release(context, live_row, findings):
        findings.record(
            "revenants",
            binding.app_id,
            action=_action(context, live_row),
            binding_id=binding.id,
            bind_id=row.bind_id,
            ends_at=row.ends_at,
        )


def end_explained_holds(
    context: ReconcileContext, scan: Scan, known_bind_ids: set[str], findings: Findings
) -> None:
    """End the holds that are not needed any more, because their cause is known and holds the phone itself."""
    explained = [
        hold
        for hold in context.live_holds(scan.app_id)
        if (hold.why is holds.HoldReason.ORPHAN and hold.bind_id in known_bind_ids)
        or (
            hold.why is holds.HoldReason.REFUSED
            and hold.phone.key in scan.listed
            and _is_held_otherwise(context, hold, findings)
        )
    ]
    context.end_holds(explained, "explained", scan.app_id, findings)


def _is_held_otherwise(context: ReconcileContext, hold: holds.Hold, findings: Findings) -> bool:
    """Return True if something other than a refusal holds the phone too, or would without the dry run."""
    database, scope = context.runtime.database, context.runtime.settings.scope
    rows = database.read(find_holding_rows, (hold.phone, hold.phone), scope, database.clock())
    return hold.phone.key in findings.would_hold or any(row.why != holds.HoldReason.REFUSED for row in rows)


def _hold_or_release(context: ReconcileContext, live_row: _LiveRow, findings: Findings) -> bool:
    """Act as BINDINGS_ON_ORPHAN says; return True if the case is new."""
    action, row = _action(context, live_row), live_row.row
    if context.observe_only(action):
        if action == "hold":
            findings.would_hold |= {row.phone_a.key, row.phone_b.key}
        return True
    is_new = context.runtime.database.write(lambda tx: _hold(tx, context, live_row))
    if action == "release":
        _release(context, row.bind_id, live_row.app_id)
    return is_new


def _action(context: ReconcileContext, live_row: _LiveRow) -> str:
    """Return what is done with a row: an unbind needs its application, so without one it is held."""
    action = context.actions.orphan
    return "hold" if action == "release" and live_row.app_id == holds.NO_APP else action


def _hold(tx: Transaction, context: ReconcileContext, live_row: _LiveRow) -> bool:
    row = live_row.row
    return holds.hold_orphan(
        tx,
        context.runtime.caller,
        phones=(row.phone_a, row.phone_b),
        scope=context.runtime.settings.scope,
        app_id=live_row.app_id,
        bind_id=row.bind_id,
        origin_id=live_row.origin_id,
        held_until=row.ends_at + context.tolerance.error + context.guard_after(row.ends_at, tx.instant()),
        released_since=live_row.released_since,
    )


def _release(context: ReconcileContext, bind_id: str, app_id: str) -> None:
    """Unbind at the provider what is held, and end its holds if that is confirmed.

    If the provider does not know it, its list and this answer disagree: a later scan decides.
    """
    runtime = context.runtime
    released = [hold for hold in context.live_holds(app_id) if hold.bind_id == bind_id]
    if not released:
        return
    outcome = context.client.unbind(app_id=app_id, bind_id=bind_id)
    if isinstance(outcome, UnbindSucceeded):
        runtime.database.write(lambda tx: holds.end_holds(tx, runtime.caller, released, reason="released"))
