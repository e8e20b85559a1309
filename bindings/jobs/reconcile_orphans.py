"""Holds the phones of live rows that none of our live bindings explains: orphans and revenants.

An orphan is a row that is not ours. A revenant is a row of a binding that has ended here: the list hid it, and it
looked gone; or the provider took an unbind back; or the database was restored. The provider holds the phones of
both, so both become a hold until the end that the list shows; the binding that has ended stays as it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bindings.domain.hold import HoldReason
from bindings.domain.serialization import batches
from bindings.errors import BindingsError
from bindings.failpoints import hit
from bindings.jobs import reconcile_context, scan_evidence
from bindings.lifecycle.unbind import call_provider, unbind_each
from bindings.provider.outcome import UnbindSucceeded
from bindings.store import holds, queries
from bindings.store.reserve import find_holding_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Binding
    from bindings.domain.phone import Phone
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.reconcile_context import Findings, ReconcileContext
    from bindings.provider.outcome import ProviderBinding, UnbindOutcome
    from bindings.store.database import Transaction

    HeldUntil = dict[tuple[str, str, str], datetime]  # by application, bind_id and phone key


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRow:
    """A live row to be held, its application if that is known, and our binding that it came from, if it did.

    `case` is what the report calls it. It is not held again if a hold of it has ended after `released_since`.
    `binding_of_id` is a living binding here with the bind_id of the row and other phones: the row is never
    released, because its unbind would name that binding.
    """

    case: str
    row: ProviderBinding
    app_id: str
    origin_id: str | None
    released_since: datetime | None = None
    binding_of_id: Binding | None = None

    @property
    def phones(self) -> tuple[Phone, ...]:
        """Return the phones to be held: those of the row, without those that `binding_of_id` holds."""
        own = () if self.binding_of_id is None else (self.binding_of_id.phone_a, self.binding_of_id.phone_b)
        return tuple(phone for phone in (self.row.phone_a, self.row.phone_b) if phone not in own)


def orphans_among(
    context: ReconcileContext, rows: Iterable[ProviderBinding], app_id: str | None, findings: Findings
) -> Iterator[LiveRow]:
    """Yield unknown rows as orphans; if one matches an ended intent, that is recorded as its origin.

    A row that is an active binding under another bind_id is no orphan.
    """
    tolerance = context.tolerance
    for row in rows:
        origin = None
        with findings.isolate("search for the origin", app_id, bind_id=row.bind_id):
            candidates = context.runtime.database.read(queries.of_unknown_row, row)
            own_ids = {
                binding.id for binding in candidates if scan_evidence.is_under_another_id(row, binding, tolerance)
            }
            if own_ids:
                findings.under_another_id |= own_ids
                continue
            ended = (binding for binding in candidates if binding.state.terminal)
            origin = next(
                (intent for intent in ended if scan_evidence.matches_intent(row, intent, tolerance)), None
            )
        origin_id = None if origin is None else origin.id
        yield LiveRow(case="orphans", row=row, app_id=app_id or holds.NO_APP, origin_id=origin_id)


def revenants_among(rows: Iterable[tuple[ProviderBinding, Binding]], scan: Scan) -> Iterator[LiveRow]:
    """Yield the live rows whose binding has ended here, unless the list may be older than that end."""
    for row, binding in rows:
        if scan_evidence.is_revenant(row, binding, scan.started_at):
            yield LiveRow(
                case="revenants",
                row=row,
                app_id=binding.app_id,
                origin_id=binding.id,
                released_since=scan.started_at - scan_evidence.LIST_LAG,
            )


def rows_of_other_pairs(rows: Iterable[tuple[ProviderBinding, Binding]]) -> Iterator[LiveRow]:
    """Yield the live rows that have the bind_id of a living binding here and not its phones.

    One of the two is wrong: a response of the provider that named another binding, or its list. A row that has
    only phones of that binding, one of them twice, has none to be held.
    """
    for row, binding in rows:
        live_row = LiveRow(case="orphans", row=row, app_id=binding.app_id, origin_id=None, binding_of_id=binding)
        if live_row.phones:
            yield live_row


def orphan_holds(context: ReconcileContext, app_id: str | None) -> HeldUntil:
    """Return the ends of the holds of orphans and revenants that are in force now."""
    return {
        (hold.app_id, str(hold.bind_id), hold.phone.key): hold.held_until
        for hold in context.live_holds(app_id)
        if hold.why is HoldReason.ORPHAN
    }


def hold_live_rows(
    context: ReconcileContext, live_rows: Iterable[LiveRow], held_until: HeldUntil, findings: Findings
) -> None:
    """Act on live rows as BINDINGS_ON_ORPHAN says, in batches, and record the cases that are new.

    A row that `held_until` shows as held for long enough is not written again: at most runs, that is nearly every
    row. All are held before the first is released: the calls of the provider may take long.
    """
    to_release: list[LiveRow] = []
    for batch in context.control.work_through(batches(live_rows, reconcile_context.HOLD_BATCH)):
        for live_row in _new_in(context, batch, held_until, findings):
            revenant = live_row.case == "revenants"
            findings.record(
                live_row.case,
                None if live_row.app_id == holds.NO_APP else live_row.app_id,
                action=_action(context, live_row),
                binding_id=live_row.origin_id if revenant else None,
                bind_id=live_row.row.bind_id,
                origin_id=None if revenant else live_row.origin_id,
                ends_at=live_row.row.ends_at,
            )
        to_release += [live_row for live_row in batch if _action(context, live_row) == "release"]
    if to_release and not context.dry_run:
        _release_all(context, to_release, findings)


def _new_in(
    context: ReconcileContext, batch: list[LiveRow], held_until: HeldUntil, findings: Findings
) -> list[LiveRow]:
    """Hold the rows of a batch unless they are only to be observed; return those that are new cases."""
    action = context.actions.orphan
    if action == "observe":
        return batch
    if context.dry_run and action == "hold":
        findings.would_hold |= {phone.key for live_row in batch for phone in live_row.phones}
    now = context.runtime.database.clock()
    to_hold = [
        live_row
        for live_row in batch
        if not is_held(
            held_until,
            app_id=live_row.app_id,
            bind_id=live_row.row.bind_id,
            phones=live_row.phones,
            until=_held_until(context, live_row, now),
        )
    ]
    if not to_hold:
        return []
    return _would_hold(context, to_hold) if context.dry_run else _hold_batch(context, to_hold, findings)


def is_held(
    held_until: HeldUntil, *, app_id: str, bind_id: str, phones: tuple[Phone, ...], until: datetime
) -> bool:
    """Return True if each phone of a row has a hold of that row that ends at an instant or later."""
    ends = [held_until.get((app_id, bind_id, phone.key)) for phone in phones]
    return all(end is not None and end >= until for end in ends)


def _would_hold(context: ReconcileContext, batch: list[LiveRow]) -> list[LiveRow]:
    """Return the rows that a run without the dry run would hold, and that are not held yet."""
    database = context.runtime.database
    now = database.clock()

    def query(connection: Connection) -> list[LiveRow]:
        return [
            live_row
            for live_row in batch
            if holds.would_hold_orphan(
                connection,
                now,
                phones=live_row.phones,
                app_id=live_row.app_id,
                bind_id=live_row.row.bind_id,
                held_until=_held_until(context, live_row, now),
                released_since=live_row.released_since,
            )
        ]

    return database.read(query)


def _hold_batch(context: ReconcileContext, batch: list[LiveRow], findings: Findings) -> list[LiveRow]:
    """Hold the rows in one transaction, or one by one if that fails; return those that were not held before."""
    write = context.runtime.database.write

    def hold_all(tx: Transaction) -> list[LiveRow]:
        new_rows = [live_row for live_row in batch if _hold(tx, context, live_row)]
        hit("reconcile.hold_in_transaction")
        return new_rows

    try:
        return write(hold_all)
    except BindingsError:
        raise
    except Exception:  # noqa: BLE001 -- of one row; the next lines find out which
        new_rows = []
        for live_row in batch:
            with findings.isolate("hold", live_row.app_id, bind_id=live_row.row.bind_id):
                if write(partial(_hold, context=context, live_row=live_row)):
                    new_rows.append(live_row)
        return new_rows


def end_explained_holds(
    context: ReconcileContext, scan: Scan, known_bind_ids: set[str], findings: Findings
) -> None:
    """End the holds that are not needed any more, because their cause is known and holds the phone itself."""
    live_holds = context.live_holds(scan.app_id)
    living_ids = known_bind_ids | _ids_listed_as_recorded(context, scan, live_holds)
    explained = [
        hold
        for hold in live_holds
        if (hold.why is HoldReason.ORPHAN and hold.bind_id in living_ids)
        or (
            hold.why is HoldReason.REFUSED
            and hold.phone.key in scan.listed
            and _is_held_otherwise(context, hold, findings)
        )
    ]
    context.end_holds(explained, "explained", scan.app_id, findings)


def _ids_listed_as_recorded(context: ReconcileContext, scan: Scan, live_holds: Iterable[holds.Hold]) -> set[str]:
    """Return the ids of orphan holds that the list shows with the phones of their living binding here by now."""
    if scan.app_id is None or not scan.complete:  # the account's list may have an id for each of its applications
        return set()
    differing_ids = {row.bind_id for row in scan.unexplained_rows} | {row.bind_id for row in scan.odd_rows}
    orphan_ids = [str(hold.bind_id) for hold in live_holds if hold.why is HoldReason.ORPHAN]
    listed_ids = {bind_id for bind_id in orphan_ids if bind_id in scan.bind_ids} - differing_ids
    if not listed_ids:
        return set()
    bindings_by_bind_id = context.runtime.database.read(queries.by_bind_ids, sorted(listed_ids))
    return {
        bind_id
        for bind_id, bindings in bindings_by_bind_id.items()
        if any(binding.app_id == scan.app_id and not binding.state.terminal for binding in bindings)
    }


def _is_held_otherwise(context: ReconcileContext, hold: holds.Hold, findings: Findings) -> bool:
    """Return True if something other than a refusal holds the phone too, or would without the dry run."""
    database, scope = context.runtime.database, context.runtime.settings.scope
    rows = database.read(find_holding_rows, (hold.phone, hold.phone), scope, database.clock())
    return hold.phone.key in findings.would_hold or any(row.why != HoldReason.REFUSED for row in rows)


def _action(context: ReconcileContext, live_row: LiveRow) -> str:
    """Return what is done with a row: an unbind needs its application, and a bind_id of nothing else."""
    action = context.actions.orphan
    only_held = live_row.app_id == holds.NO_APP or live_row.binding_of_id is not None
    return "hold" if action == "release" and only_held else action


def _hold(tx: Transaction, context: ReconcileContext, live_row: LiveRow) -> bool:
    row = live_row.row
    return holds.hold_orphan(
        tx,
        context.runtime.caller,
        phones=live_row.phones,
        scope=context.runtime.settings.scope,
        app_id=live_row.app_id,
        bind_id=row.bind_id,
        origin_id=live_row.origin_id,
        held_until=_held_until(context, live_row, tx.instant()),
        released_since=live_row.released_since,
    )


def _held_until(context: ReconcileContext, live_row: LiveRow, now: datetime) -> datetime:
    ends_at = live_row.row.ends_at
    return ends_at + context.tolerance.hold_error + context.guard_after(ends_at, now)


def _release_all(context: ReconcileContext, live_rows: list[LiveRow], findings: Findings) -> None:
    """Release what is held of these rows within the budget of unbinds; the next reconciliation continues.

    In random order, so that a few that stay unclear do not keep others from their turn.
    """

    def release(live_row: LiveRow) -> tuple[LiveRow, UnbindOutcome | None]:
        outcome = None
        with findings.isolate("release", live_row.app_id, bind_id=live_row.row.bind_id):
            outcome = _release(context, live_row.row.bind_id, live_row.app_id)
        return live_row, outcome

    random.shuffle(live_rows)
    unbind_each(context.runtime, context.control.work_through(live_rows), release)


def _release(context: ReconcileContext, bind_id: str, app_id: str) -> UnbindOutcome | None:
    """Unbind at the provider what is held, end its holds if that is confirmed, and return the provider's answer.

    The holds are read just before the call: if they have ended, the provider may have given the bind_id to
    another bind since. If it does not know the bind_id, its list and this answer disagree: a later scan decides.
    """
    runtime, database = context.runtime, context.runtime.database
    live_holds = database.read(holds.with_bind_id, app_id, bind_id, database.clock())
    if not live_holds:
        return None
    outcome = call_provider(context.client, app_id=app_id, bind_id=bind_id)
    if isinstance(outcome, UnbindSucceeded):
        database.write(lambda tx: holds.end_holds(tx, runtime.caller, live_holds, reason="released"))
    return outcome
