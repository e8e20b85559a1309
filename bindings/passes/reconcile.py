"""Compare with the provider's own list, both ways, and mend what differs.

A decision list, case by case, each counted and evented:

- a doubt that exactly one row fits, and no other doubt: adopted;
- a doubt that two proof scans missed while it would have been there: absent;
- a row that is nobody's: an orphan, whose phones are held until it ends;
- an active binding that two proof scans missed: a ghost, ended as gone at the provider;
- a known row that ends sooner than we say: drift, brought forward; later or other numbers: reported;
- a hold that the list explains or denies: ended.

What is not seen proves little: only two scans in opposite order and with different page sizes, both complete,
both with a live binding of ours seen as witness, and in agreement about every one of them, prove anything.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.binding import Mode, Reason, State
from bindings.failpoints import reach
from bindings.passes import scan as scanning
from bindings.store import holds, queries, settle
from bindings.store.bindings import must_find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.binding import Binding, Caller
    from bindings.passes.scan import Scan
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import ProviderBinding
    from bindings.store.database import Database, Transaction

_log = logging.getLogger(__name__)

FORWARD_SIZE, BACKWARD_SIZE = 100, 73  # different, so that rows fall on other pages the second time
READING_ERROR_S = 2.0  # expireTime is cut to whole seconds, and so is the Date that the skew comes from
ZONE_MISFIT_S = 600.0  # nothing but a wrong zone moves every row by ten minutes or more


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What one pass found over all applications; with `dry_run` nothing was written.

    `scans` were read, `incomplete` of them not to the end (`faults` says why). `unresolved` doubts stay open.
    `zone_misfit_s` is how far the provider's times lie from ours where that cannot be drift: the zone setting
    is wrong then, and nothing is concluded.
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
    unresolved: int = 0
    zone_misfit_s: float = 0.0
    faults: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciler:
    """One pass over one or more applications: its parts and its rules. `tolerance_s` is the stamp's."""

    database: Database
    provider: ProviderClient
    caller: Caller
    scope: str
    tolerance_s: float
    guard_for: Callable[[int], float]
    calls_per_s: float
    dry_run: bool = False

    def run(self, app_ids: Iterable[str]) -> Reconciled:
        """Reconcile every application. Safe to repeat, and side by side with anything else."""
        pace = scanning.Pace(self.calls_per_s)
        counts: Counter[str] = Counter()
        faults: list[str] = []
        misfit = 0.0
        for app_id in app_ids:
            counts["apps"] += 1
            first = self._scan(app_id, pace, counts, faults, size=FORWARD_SIZE)
            if abs(first.deviation_s) >= ZONE_MISFIT_S:
                misfit = first.deviation_s
                _log.warning("the provider's times lie %+.0f s from ours: check BINDINGS_PROVIDER_ZONE", misfit)
                continue
            reach("reconcile.after_first_scan")
            self._conclude_from_rows(first, counts)
            if self._silence_matters(first):
                second = self._scan(app_id, pace, counts, faults, size=BACKWARD_SIZE, backwards=True)
                reach("reconcile.after_second_scan")
                self._conclude_from_silence(first, second, counts)
            counts["unresolved"] += len(self._unsettled(app_id))
        return Reconciled(
            **counts, zone_misfit_s=misfit, faults=tuple(dict.fromkeys(faults)), dry_run=self.dry_run
        )

    def _scan(
        self,
        app_id: str,
        pace: scanning.Pace,
        counts: Counter[str],
        faults: list[str],
        *,
        size: int,
        backwards: bool = False,
    ) -> Scan:
        found = scanning.read(self.database, self.provider, app_id, pace=pace, size=size, backwards=backwards)
        counts["scans"] += 1
        counts["incomplete"] += not found.complete
        if found.fault is not None:
            faults.append(found.fault)
        return found

    # What is seen.

    def _conclude_from_rows(self, scan: Scan, counts: Counter[str]) -> None:
        for row, binding in scan.matched:
            counts["drifted"] += self._drift(row, binding)
        unsettled = self._unsettled(scan.app_id)
        # Read again: an answer may have settled a row since its page was compared.
        ids = [row.bind_id for row in scan.strangers]
        ours = self.database.read(lambda connection: queries.by_bind_ids(connection, scan.app_id, ids))
        strangers = [row for row in scan.strangers if row.bind_id not in ours]
        for row in strangers:
            fitting = [doubt for doubt in unsettled if _same_pair(row, doubt)]
            if not fitting:
                counts["orphans"] += self._hold(row, scan.app_id)
            elif self._only_fit(row, fitting, strangers):
                counts["adopted"] += self._adopt(fitting[0], row)
        counts["holds_ended"] += self._end_explained(scan, ours)

    def _only_fit(self, row: ProviderBinding, fitting: list[Binding], strangers: list[ProviderBinding]) -> bool:
        """Exactly one row and one doubt fit each other; otherwise both are left alone and stay reported."""
        rows = [other for other in strangers if _same_pair(other, fitting[0])]
        return len(fitting) == len(rows) == 1 and self._fits(row, fitting[0])

    def _fits(self, row: ProviderBinding, doubt: Binding) -> bool:
        error = self._error()
        life = timedelta(seconds=doubt.expire_s)
        earliest = doubt.requested_at + life - error
        latest = doubt.send_by + timedelta(seconds=self.tolerance_s) + life + error
        mode = Mode.AXB if row.middle_number_a == row.middle_number_b else Mode.AXXB
        # Only in_doubt: while a binding is pending its own answer may still come, and knows better.
        return doubt.state is State.IN_DOUBT and doubt.mode is mode and earliest <= row.ends_at <= latest

    def _adopt(self, doubt: Binding, row: ProviderBinding) -> bool:
        if self.dry_run:
            return True
        swapped = row.phone_a == doubt.phone_b
        numbers = (row.middle_number_a, row.middle_number_b)
        life = timedelta(seconds=doubt.expire_s)
        expires_at = min((doubt.sent_at or doubt.requested_at) + life, row.ends_at - self._error())
        held_until = max(doubt.held_until, row.ends_at + self._error() + self._guard(doubt))

        def work(tx: Transaction) -> Binding | None:
            now = tx.instant()
            success = settle.Success(
                bind_id=row.bind_id,
                middle_number_a=numbers[1] if swapped else numbers[0],
                middle_number_b=numbers[0] if swapped else numbers[1],
                sent_at=doubt.sent_at or doubt.requested_at,
                answered_at=now,
                expires_at=expires_at,
                held_until=held_until,
            )
            adopted = settle.adopt(tx, doubt.id, self.caller, success)
            reach("reconcile.adopt_in_transaction")
            return adopted

        adopted = self.database.write(work)
        reach("reconcile.after_adopt")
        return adopted is not None

    def _hold(self, row: ProviderBinding, app_id: str) -> bool:
        if self.dry_run:
            return True

        def work(tx: Transaction) -> bool:
            remaining = (row.ends_at - tx.instant()).total_seconds()
            guard = timedelta(seconds=self.guard_for(max(0, int(remaining))))
            return holds.put_orphan(
                tx,
                self.caller,
                phones=(row.phone_a, row.phone_b),
                scope=self.scope,
                app_id=app_id,
                bind_id=row.bind_id,
                origin_id=None,
                held_until=row.ends_at + self._error() + guard,
            )

        return self.database.write(work)

    def _drift(self, row: ProviderBinding, binding: Binding) -> bool:
        if binding.state is not State.ACTIVE or binding.expires_at is None:
            return False
        numbers_differ = (row.middle_number_a, row.middle_number_b) != (
            binding.middle_number_a,
            binding.middle_number_b,
        ) and row.phone_a == binding.phone_a
        safe_end = row.ends_at - self._error()
        sooner = safe_end < binding.expires_at - self._error()
        if numbers_differ:
            _log.warning("binding %s: the provider lists other middle numbers", binding.id)
        if not sooner or self.dry_run:
            return sooner or numbers_differ
        detail = {"expires_at": safe_end.isoformat(), "was": binding.expires_at.isoformat()}
        self.database.write(
            lambda tx: settle.narrow(tx, binding.id, self.caller, expires_at=safe_end, detail=detail)
        )
        return True

    def _end_explained(self, scan: Scan, ours: dict[str, Binding]) -> int:
        """End holds whose cause is known by now: a row of the list, or a binding of ours after all."""
        now = self.database.clock()
        live = self._holds(scan.app_id, now)
        listed = {phone for row in scan.strangers for phone in (row.phone_a, row.phone_b)}
        listed |= {phone for row, _ in scan.matched for phone in (row.phone_a, row.phone_b)}
        matched = {binding.bind_id for _, binding in scan.matched} | set(ours)
        explained = [
            hold
            for hold in live
            if (hold.why is holds.Why.REFUSED and hold.phone in listed)
            or (hold.why is holds.Why.ORPHAN and hold.bind_id in matched)
        ]
        return self._end_holds(explained, "explained")

    # What is not seen.

    def _silence_matters(self, scan: Scan) -> bool:
        """Whether a second scan could prove anything that the first one left open."""
        if not scan.complete:
            return False
        missing, _ = self._witnesses(scan)
        doubts = self._unsettled(scan.app_id)
        return bool(
            missing
            or any(self._provable(doubt, scan, scan) for doubt in doubts)
            or self._unseen_holds(scan.app_id, scan.seen)
        )

    def _conclude_from_silence(self, first: Scan, second: Scan, counts: Counter[str]) -> None:
        missing, witnessed = self._witnesses(first)
        missing_again, witnessed_again = self._witnesses(second)
        gone = missing & missing_again
        agreed = missing == missing_again
        # Losing half of the bindings at once is a wrong list, not so many ends.
        believable = witnessed and witnessed_again and len(gone) <= min(witnessed, witnessed_again)
        if not (first.complete and second.complete and agreed and believable):
            return
        for binding_id in gone:
            counts["ghosts"] += self._end_ghost(binding_id)
        seen = first.seen | second.seen
        rows = first.strangers + second.strangers
        for doubt in self._unsettled(first.app_id):
            if self._provable(doubt, first, second) and not any(_same_pair(row, doubt) for row in rows):
                counts["absent"] += self._absent(doubt)
        counts["holds_ended"] += self._end_holds(self._unseen_holds(first.app_id, seen), "denied")

    def _witnesses(self, scan: Scan) -> tuple[set[str], int]:
        """The bindings that must have been listed and were not (our ids), and how many were."""

        def query(connection: Connection) -> tuple[set[str], int]:
            missing: set[str] = set()
            witnessed = 0
            live = queries.surely_live(connection, scan.app_id, since=scan.began, until=scan.ended)
            for binding_id, bind_id in live:
                if bind_id in scan.seen:
                    witnessed += 1
                else:
                    missing.add(binding_id)
            return missing, witnessed

        return self.database.read(query)

    def _provable(self, doubt: Binding, first: Scan, second: Scan) -> bool:
        """Both scans lay wholly in the time in which the binding, had it been made, must have been listed."""
        earliest = doubt.send_by + timedelta(seconds=self.tolerance_s)
        latest = doubt.requested_at + timedelta(seconds=doubt.expire_s)
        return (
            doubt.state is State.IN_DOUBT
            and min(first.began, second.began) > earliest + self._error()
            and max(first.ended, second.ended) < latest - self._error()
        )

    def _absent(self, doubt: Binding) -> bool:
        if self.dry_run:
            return True
        work = lambda tx: settle.settle_failed(  # noqa: E731
            tx, doubt.id, self.caller, reason=Reason.ABSENT, status=doubt.provider_status, detail={}
        )
        return self.database.write(work).state is State.FAILED

    def _end_ghost(self, binding_id: str) -> bool:
        if self.dry_run:
            return True

        def work(tx: Transaction) -> Binding:
            binding = must_find(tx, binding_id)
            guard_s = self.guard_for(binding.expire_s)
            return settle.settle_unbound(
                tx, binding_id, self.caller, reason=Reason.GONE_AT_PROVIDER, guard_s=guard_s
            )

        return self.database.write(work).reason == Reason.GONE_AT_PROVIDER

    def _unseen_holds(self, app_id: str, seen: set[str]) -> list[holds.Hold]:
        now = self.database.clock()
        return [
            hold
            for hold in self._holds(app_id, now)
            # Refused again after a denial: whoever holds the phone is in no list that we can read.
            if (hold.why is holds.Why.REFUSED and hold.strikes == 1)
            or (hold.why is holds.Why.ORPHAN and hold.bind_id not in seen)
        ]

    def _unsettled(self, app_id: str) -> list[Binding]:
        return self.database.read(lambda connection: queries.unsettled(connection, app_id))

    def _holds(self, app_id: str, now: datetime) -> list[holds.Hold]:
        return self.database.read(lambda connection: holds.live(connection, self.scope, now, app_id=app_id))

    def _end_holds(self, ended: list[holds.Hold], reason: str) -> int:
        if not ended or self.dry_run:
            return len(ended)
        return self.database.write(lambda tx: holds.end(tx, self.caller, ended, reason=reason))

    def _guard(self, binding: Binding) -> timedelta:
        return timedelta(seconds=self.guard_for(binding.expire_s))

    def _error(self) -> timedelta:
        """How wrong an instant of the provider's list may be on our clock."""
        return timedelta(seconds=READING_ERROR_S + abs(self.provider.skew_s or 0.0))


def _same_pair(row: ProviderBinding, binding: Binding) -> bool:
    return {row.phone_a.key, row.phone_b.key} == {binding.phone_a.key, binding.phone_b.key}
