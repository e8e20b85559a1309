"""Compare with the provider's own list, both ways, and mend what differs.

A decision list, case by case; each case is counted, reported and, where something changes, evented:

- adopted: a doubt that exactly one row of the list fits, and no other doubt of that pair;
- absent: a doubt that two proof scans missed while it would have been listed;
- orphan: a row that is nobody's here; its phones are held until it ends;
- ghost: an active binding that two proof scans missed; it ends as gone at the provider;
- drift: a known row that ends sooner (brought forward), later (held longer) or has other middle numbers;
- hold_ended: a hold that the list explains or denies.

What counts as proof stands in `verdict`. What is done about a case is a setting (`Actions`): whoever only wants
to look may observe.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import Reason, State
from bindings.failpoints import hit
from bindings.jobs import provider_scan, scan_evidence
from bindings.provider.outcome import UnbindNotFound, UnbindSucceeded
from bindings.store import account, holds, queries, reports, settle
from bindings.store.bindings import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Binding, Caller
    from bindings.jobs.provider_scan import Scan
    from bindings.jobs.scan_evidence import ClockTolerance, LiveBindingsSeen
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import ProviderBinding
    from bindings.store.database import Database, Transaction

_log = logging.getLogger(__name__)

FORWARD_SIZE, BACKWARD_SIZE = 100, 73  # different, so that rows fall on other pages the second time


@dataclass(frozen=True, kw_only=True, slots=True)
class Actions:
    """What is done about each case: `observe` only reports it."""

    doubt: str = "adopt"  # adopt, observe
    ghost: str = "end"  # end, observe
    orphan: str = "hold"  # hold, release (unbind it at the provider), observe
    drift: str = "narrow"  # narrow, observe


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileResult:
    """What one pass found over all applications; with `dry_run` nothing was changed.

    `scans` were read, `incomplete` of them not to the end (`faults` says why). `unresolved` doubts stay open;
    `observed` cases were only reported, because a setting says so.
    `zone_misfit_s` is how far the provider's times lie from ours where that cannot be drift: the zone setting
    is wrong then, and nothing is concluded. `made_good`: this was the scan that a restored database owed, and
    binds go on. `report_id` names the stored report, `reason` is why somebody asked.
    """

    apps: int = 0
    scans: int = 0
    incomplete: int = 0
    adopted: int = 0
    absent: int = 0
    ghosts: int = 0
    orphans: int = 0
    drifted: int = 0
    holds_ended: int = 0
    observed: int = 0
    unresolved: int = 0
    zone_misfit_s: float = 0.0
    faults: tuple[str, ...] = ()
    dry_run: bool = False
    made_good: bool = False
    reason: str | None = None
    report_id: str | None = None

    @property
    def trusted(self) -> bool:
        """Whether the whole list was read, and its times fit ours, and what was found was acted on."""
        return bool(self.apps) and not (self.incomplete or self.zone_misfit_s or self.dry_run)


@dataclass(kw_only=True, slots=True)
class _Findings:
    """What has been found so far: the counts of `Reconciled`, the cases of the report, and the faults."""

    counts: Counter[str] = field(default_factory=Counter)
    cases: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    zone_misfit_s: float = 0.0

    def record(self, case: str, app_id: str, *, action: str = "", **facts: Any) -> None:
        """Count a case, and tell it in the report; `facts` hold ids and instants, never a phone.

        What the settings only let be observed is counted as that: nothing was done about it.
        """
        self.counts["observed" if action == "observe" else case] += 1
        told = {name: str(value) for name, value in facts.items() if value is not None}
        self.cases.append({"case": case, "action": action, "app_id": app_id} | told)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciler:
    """One pass over one or more applications: its parts and its rules."""

    database: Database
    provider: ProviderClient
    caller: Caller
    scope: str
    tolerance_s: float
    guard_for: Callable[[int], float]
    calls_per_s: float
    actions: Actions = Actions()
    dry_run: bool = False
    reason: str | None = None

    def run(self, app_ids: Iterable[str], *, began: datetime) -> ReconcileResult:
        """Reconcile every application and store the report. Safe to repeat, and side by side with anything.

        `began` is a database instant from before the applications were chosen: what is owed since then is not
        paid by this pass.
        """
        pace = provider_scan.RateLimiter(self.calls_per_s)
        found = _Findings()
        for app_id in app_ids:
            self._reconcile(app_id, pace, found)
        counted: dict[str, Any] = dict(found.counts)
        result = ReconcileResult(
            **counted,
            zone_misfit_s=found.zone_misfit_s,
            faults=tuple(dict.fromkeys(found.faults)),
            dry_run=self.dry_run,
            reason=self.reason,
        )
        if result.trusted:
            made_good = self.database.write(lambda tx: account.complete_full_scan(tx, began=began))
            result = replace(result, made_good=made_good)
        told = {name: value for name, value in asdict(result).items() if name != "report_id"}
        report_id = self.database.write(
            lambda tx: reports.store(tx, self.caller, began=began, counts=told, cases=found.cases)
        )
        return replace(result, report_id=report_id)

    def _reconcile(self, app_id: str, pace: provider_scan.RateLimiter, found: _Findings) -> None:
        found.counts["apps"] += 1
        first = self._scan(app_id, pace, found, size=FORWARD_SIZE)
        if abs(first.deviation_s) >= scan_evidence.ZONE_MISFIT_S:
            found.zone_misfit_s = first.deviation_s
            _log.warning(
                "the provider's times lie %+.0f s from ours: check BINDINGS_PROVIDER_ZONE", first.deviation_s
            )
            return
        hit("reconcile.after_first_scan")
        self._apply_rows(first, found)
        if first.complete and self._needs_second_scan(first):
            second = self._scan(app_id, pace, found, size=BACKWARD_SIZE, backwards=True)
            hit("reconcile.after_second_scan")
            self._apply_absences(first, second, found)
        found.counts["unresolved"] += len(self._unsettled(app_id))

    def _scan(
        self, app_id: str, pace: provider_scan.RateLimiter, found: _Findings, *, size: int, backwards: bool = False
    ) -> Scan:
        refused = [hold for hold in self._holds(app_id) if hold.why is holds.HoldReason.REFUSED]
        scan = provider_scan.read(
            self.database,
            self.provider,
            app_id,
            pace=pace,
            size=size,
            backwards=backwards,
            watched=frozenset(hold.phone.key for hold in refused),
        )
        found.counts["scans"] += 1
        found.counts["incomplete"] += not scan.complete
        if scan.error is not None:
            found.faults.append(scan.error)
        return scan

    # What is seen.

    def _apply_rows(self, scan: Scan, found: _Findings) -> None:
        measure = self._measure()
        for row, binding in scan.differing:
            self._drift(row, binding, measure, found)
        unsettled = self._unsettled(scan.app_id)
        # Read again: an answer may have settled a row since its page was compared.
        ids = [row.bind_id for row in scan.unknown_rows]
        ours = self.database.read(queries.by_bind_ids, scan.app_id, ids)
        strangers = [row for row in scan.unknown_rows if row.bind_id not in ours]
        for doubt, row in scan_evidence.adoptions(strangers, unsettled, scan.ended, measure):
            if self._adopt(doubt, row, measure):
                found.record(
                    "adopted", scan.app_id, action=self.actions.doubt, binding_id=doubt.id, bind_id=row.bind_id
                )
        for row in strangers:
            if not scan_evidence.has_ended(row, scan.ended, measure) and not any(
                scan_evidence.same_pair(row, intent) for intent in unsettled
            ):
                self._handle_orphan(row, scan.app_id, measure, found)
        self._end_explained_holds(scan, set(ours), found)

    def _adopt(self, doubt: Binding, row: ProviderBinding, measure: ClockTolerance) -> bool:
        if self._observe_only(self.actions.doubt):
            return True
        numbers = (row.middle_number_a, row.middle_number_b)
        if row.phone_a == doubt.phone_b:
            numbers = numbers[::-1]
        sent_at = doubt.sent_at or doubt.requested_at

        def work(tx: Transaction) -> Binding | None:
            success = settle.Success(
                bind_id=row.bind_id,
                middle_number_a=numbers[0],
                middle_number_b=numbers[1],
                sent_at=sent_at,
                answered_at=tx.instant(),
                expires_at=min(sent_at + timedelta(seconds=doubt.expire_s), row.ends_at - measure.error),
                held_until=max(doubt.held_until, row.ends_at + measure.error + self._guard(doubt.expire_s)),
                warn_s=doubt.warn_s,
            )
            adopted = settle.adopt(tx, doubt.id, self.caller, success)
            hit("reconcile.adopt_in_transaction")
            return adopted

        adopted = self.database.write(work)
        hit("reconcile.after_adopt")
        return adopted is not None

    def _handle_orphan(self, row: ProviderBinding, app_id: str, measure: ClockTolerance, found: _Findings) -> None:
        """Hold a stranger's phones; one that fits an intent of ours that ended names it as its origin."""
        ended = self.database.read(queries.ended_without_bind_id, app_id, row)
        origin = next((intent for intent in ended if scan_evidence.matches_intent(row, intent, measure)), None)
        origin_id = None if origin is None else origin.id
        new = self._observe_only(self.actions.orphan) or self._hold(row, app_id, origin_id, measure)
        if self.actions.orphan == "release" and not self.dry_run:
            self._release(row, app_id)
        if new:
            found.record(
                "orphans",
                app_id,
                action=self.actions.orphan,
                bind_id=row.bind_id,
                origin_id=origin_id,
                ends_at=row.ends_at,
            )

    def _hold(self, row: ProviderBinding, app_id: str, origin_id: str | None, measure: ClockTolerance) -> bool:
        def work(tx: Transaction) -> bool:
            remaining_s = max(0, int((row.ends_at - tx.instant()).total_seconds()))
            return holds.hold_orphan(
                tx,
                self.caller,
                phones=(row.phone_a, row.phone_b),
                scope=self.scope,
                app_id=app_id,
                bind_id=row.bind_id,
                origin_id=origin_id,
                held_until=row.ends_at + measure.error + self._guard(remaining_s),
            )

        return self.database.write(work)

    def _release(self, row: ProviderBinding, app_id: str) -> None:
        outcome = self.provider.unbind(app_id=app_id, bind_id=row.bind_id)
        if isinstance(outcome, UnbindSucceeded | UnbindNotFound):
            mine = [hold for hold in self._holds(app_id) if hold.bind_id == row.bind_id]
            guard_s = self.guard_for(0) if isinstance(outcome, UnbindNotFound) else 0.0
            self.database.write(
                lambda tx: holds.end_holds(tx, self.caller, mine, reason="released", guard_s=guard_s)
            )

    def _drift(self, row: ProviderBinding, binding: Binding, measure: ClockTolerance, found: _Findings) -> None:
        sooner = scan_evidence.shorter_end(row, binding, measure)
        later = scan_evidence.longer_hold(row, binding, self._guard(binding.expire_s), measure)
        other_numbers = not provider_scan.same_numbers(row, binding)
        if sooner is None and later is None and not other_numbers:
            return
        found.record(
            "drifted",
            binding.app_id,
            action=self.actions.drift,
            binding_id=binding.id,
            bind_id=row.bind_id,
            expires_at=sooner,
            held_until=later,
            middle_numbers="differ" if other_numbers else None,
        )
        if (sooner is None and later is None) or self._observe_only(self.actions.drift):
            return
        self.database.write(
            lambda tx: settle.apply_drift(tx, binding, self.caller, expires_at=sooner, held_until=later)
        )

    def _end_explained_holds(self, scan: Scan, ours: set[str], found: _Findings) -> None:
        """End holds whose cause is known by now: a row of the list, or a binding of ours after all."""
        explained = [
            hold
            for hold in self._holds(scan.app_id)
            if (hold.why is holds.HoldReason.REFUSED and hold.phone.key in scan.listed)
            or (hold.why is holds.HoldReason.ORPHAN and hold.bind_id in ours)
        ]
        self._end_holds(explained, "explained", scan.app_id, found)

    # What is not seen.

    def _needs_second_scan(self, scan: Scan) -> bool:
        """Whether a second scan could prove anything that the first one left open."""
        measure = self._measure()
        return bool(
            self._witnesses(scan).missing
            or any(
                scan_evidence.absence_provable(doubt, scan, scan, measure)
                for doubt in self._unsettled(scan.app_id)
            )
            or self._unseen_holds(scan.app_id, scan.seen)
        )

    def _apply_absences(self, first: Scan, second: Scan, found: _Findings) -> None:
        gone = scan_evidence.ghosts(first, second, self._witnesses(first), self._witnesses(second))
        if gone is None:
            return
        app_id, measure = first.app_id, self._measure()
        for binding_id in sorted(gone):
            if self._observe_only(self.actions.ghost) or self._end_ghost(binding_id):
                found.record("ghosts", app_id, action=self.actions.ghost, binding_id=binding_id)
        if gone:
            return  # a scan that misses what should be there proves no other absence; the next one may
        rows = first.unknown_rows + second.unknown_rows
        for doubt in self._unsettled(app_id):
            listed = any(scan_evidence.same_pair(row, doubt) for row in rows)
            if (
                not listed
                and scan_evidence.absence_provable(doubt, first, second, measure)
                and self._absent(doubt)
            ):
                found.record("absent", app_id, action=self.actions.doubt, binding_id=doubt.id)
        self._end_holds(self._unseen_holds(app_id, first.seen | second.seen), "denied", app_id, found)

    def _witnesses(self, scan: Scan) -> LiveBindingsSeen:
        def query(connection: Connection) -> LiveBindingsSeen:
            missing, seen = set(), 0
            live = queries.must_be_listed(connection, scan.app_id, since=scan.began, until=scan.ended)
            for binding_id, bind_id in live:
                if bind_id in scan.seen:
                    seen += 1
                else:
                    missing.add(binding_id)
            return scan_evidence.LiveBindingsSeen(missing=frozenset(missing), seen=seen)

        return self.database.read(query)

    def _absent(self, doubt: Binding) -> bool:
        if self._observe_only(self.actions.doubt):
            return True

        def work(tx: Transaction) -> Binding:
            status = doubt.provider_status
            return settle.settle_failed(tx, doubt.id, self.caller, reason=Reason.ABSENT, status=status, detail={})

        return self.database.write(work).state is State.FAILED

    def _end_ghost(self, binding_id: str) -> bool:
        def work(tx: Transaction) -> Binding:
            guard_s = self.guard_for(get(tx, binding_id).expire_s)
            return settle.settle_unbound(
                tx, binding_id, self.caller, reason=Reason.GONE_AT_PROVIDER, guard_s=guard_s
            )

        return self.database.write(work).reason == Reason.GONE_AT_PROVIDER

    def _unseen_holds(self, app_id: str, seen: set[str]) -> list[holds.Hold]:
        return [
            hold
            for hold in self._holds(app_id)
            # Refused again after a denial: whoever holds the phone is in no list that we can read.
            if (hold.why is holds.HoldReason.REFUSED and hold.strikes == 1)
            or (hold.why is holds.HoldReason.ORPHAN and hold.bind_id not in seen)
        ]

    def _end_holds(self, ended: list[holds.Hold], reason: str, app_id: str, found: _Findings) -> None:
        if ended and not self.dry_run:
            self.database.write(lambda tx: holds.end_holds(tx, self.caller, ended, reason=reason))
        for hold in ended:
            found.record("holds_ended", app_id, bind_id=hold.bind_id, origin_id=hold.origin_id, reason=reason)

    # What both need.

    def _unsettled(self, app_id: str) -> list[Binding]:
        return self.database.read(queries.unsettled, app_id)

    def _holds(self, app_id: str) -> list[holds.Hold]:
        now: datetime = self.database.clock()
        return self.database.read(holds.live, self.scope, now, app_id=app_id)

    def _guard(self, expire_s: int) -> timedelta:
        return timedelta(seconds=self.guard_for(expire_s))

    def _measure(self) -> ClockTolerance:
        return scan_evidence.ClockTolerance.of(skew_s=self.provider.skew_s, tolerance_s=self.tolerance_s)

    def _observe_only(self, action: str) -> bool:
        return self.dry_run or action == "observe"
