"""Acts on the rows of a scan that do not match the provider's documents: names them, and holds their phones.

An odd row is a binding that the provider lists, but what it is remains open: it is never adopted, and no binding
here is changed by it. While one is listed, no scan proves that a binding is absent. What of it can be read is used
on the safe side: its phones are held until its end; without an end that can be read, for the longest lifetime of a
binding, extended once an hour while it is listed. A row without a bindId is only reported, and holds nothing.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from bindings.jobs.reconcile_orphans import is_held, orphan_holds
from bindings.store import holds
from bindings.validation.fields import MAX_EXPIRE_S

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.jobs.reconcile_orphans import HeldUntil
    from bindings.provider.outcome import OddRow

MAX_NAMED = 5  # odd rows in the faults of a report; its cases have more of them


def report_odd_rows(scan: Scan, findings: Findings) -> None:
    """Count and name the odd rows of a scan."""
    for row in scan.odd_rows:
        findings.record("odd_rows", scan.app_id, bind_id=row.bind_id, problem=row.problem)
    first_rows = list(scan.odd_rows)[:MAX_NAMED]
    named = [f"row {row.bind_id or 'without bindId'}: {row.problem}" for row in first_rows]
    more = len(scan.odd_rows) - len(named)
    findings.scan_faults.extend([*named, f"{more} more odd rows"] if more else named)


def hold_odd_rows(context: ReconcileContext, scan: Scan, findings: Findings) -> None:
    """Hold the phones of the odd rows that are unknown here, as those of an orphan.

    A phone of a binding whose outcome is open is held already, and the odd row may be that binding.
    """
    if not scan.unknown_odd_rows or context.observe_only(context.actions.orphan):
        return
    unsettled_phones = {
        phone.key for intent in context.unsettled(None) for phone in (intent.phone_a, intent.phone_b)
    }
    held_until = orphan_holds(context, scan.app_id)
    for row in context.control.work_through(scan.unknown_odd_rows):
        with findings.isolate("hold", scan.app_id, bind_id=row.bind_id):
            if row.bind_id is not None and not unsettled_phones.intersection(phone.key for phone in row.phones):
                _hold(context, row, row.bind_id, scan, held_until)


def _hold(context: ReconcileContext, row: OddRow, bind_id: str, scan: Scan, held_until: HeldUntil) -> None:
    tolerance = context.tolerance
    if not row.phones or (row.ends_at is not None and row.ends_at + tolerance.error < scan.ended_at):
        return
    app_id = scan.app_id or holds.NO_APP
    ends_at = row.ends_at or _next_hour(scan.ended_at) + timedelta(seconds=MAX_EXPIRE_S)
    until = ends_at + tolerance.hold_error + context.guard_after(ends_at, scan.ended_at)
    if is_held(held_until, app_id=app_id, bind_id=bind_id, phones=row.phones, until=until):
        return
    context.runtime.database.write(
        partial(
            holds.hold_orphan,
            caller=context.runtime.caller,
            phones=row.phones,
            scope=context.runtime.settings.scope,
            app_id=app_id,
            bind_id=bind_id,
            origin_id=None,
            held_until=until,
        )
    )


def _next_hour(now: datetime) -> datetime:
    """Return the next full hour: a hold whose end cannot be read is extended once an hour, not at each scan."""
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
