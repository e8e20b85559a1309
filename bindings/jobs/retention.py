"""Delete what ended long enough ago, and start each month's partition of events.

Nothing is deleted unless a setting says how long to keep. Never deleted are: a binding that is open or whose
phones may be held, an event of a binding that is kept, and an event that is still to be sent to a webhook. An
idempotency key is deleted with its binding; until then it yields the same one (I8).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.clock import SYSTEM_CLOCK
from bindings.errors import Busy
from bindings.failpoints import hit
from bindings.jobs.batches import run_in_batches
from bindings.jobs.run_control import UNSTOPPED, RunControl
from bindings.store import partitions, protection, retention, seals

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.clock import HostClock
    from bindings.domain.binding import Caller
    from bindings.store.database import Database, Transaction

Result = TypeVar("Result")

BATCH = 500
BUDGET_S = 20.0  # of each minute; a first run over years of history needs several runs


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionResult:
    """What one run deleted, or would delete (`dry_run`).

    `kept_from`: what ended before this instant is deleted; None: everything is kept. `partitions` of events were
    dropped, with `events` in them; `partitions_waiting` are old enough, but needed by a binding that is kept or by
    a webhook. `partitions_begun` is 1 at the first run of a month. `finished` is False if time ran out or a lock
    was not acquired; `owner_needed` is True if only the owner of the tables may do it: nothing was deleted.
    """

    kept_from: str | None = None
    bindings: int = 0
    events: int = 0
    refusals: int = 0
    holds: int = 0
    reports: int = 0
    deliveries: int = 0
    texts: int = 0
    partitions: int = 0
    partitions_waiting: int = 0
    partitions_begun: int = 0
    owner_needed: bool = False
    finished: bool = True
    dry_run: bool = False


def apply_retention(
    database: Database,
    caller: Caller,
    keep_days: int | None,
    *,
    control: RunControl = UNSTOPPED,
    dry_run: bool = False,
    budget_s: float = BUDGET_S,
    clock: HostClock = SYSTEM_CLOCK,
) -> RetentionResult:
    """Run once, for at most about `budget_s` seconds, and return the counts.

    Safe to repeat, to stop at any point, and to run in several processes at the same time.
    """
    now = database.clock()
    before = None if keep_days is None else now - timedelta(days=keep_days)
    if dry_run:
        return _dry_run(database, before)
    run = _Run(database, caller, control, clock, budget_s)
    run.begin_partition(now)
    if keep_days is None or run.needs_owner():
        return run.result(before)
    limit = database.write(lambda tx: retention.set_limit(tx, keep_days, caller))
    run.delete_expired_data(limit)
    return run.result(limit.kept_from)


def _dry_run(database: Database, before: datetime | None) -> RetentionResult:
    if before is None:
        return RetentionResult(dry_run=True)
    counts: dict[str, Any] = database.read(retention.count, before)
    if not database.postgres:
        events = database.read(retention.count_events, before)
        return RetentionResult(kept_from=before.isoformat(), events=events, dry_run=True, **counts)
    ended = database.read(partitions.ended, before)
    droppable = list(partitions.droppable(database, ended, before=before, stays=retention.not_deletable(before)))
    return RetentionResult(
        kept_from=before.isoformat(),
        events=sum(partition.events for partition in droppable),
        partitions=len(droppable),
        partitions_waiting=len(ended) - len(droppable),
        owner_needed=not database.read(protection.role).owner,
        dry_run=True,
        **counts,
    )


class _Run:
    """One run in progress: what it has done so far."""

    def __init__(
        self, database: Database, caller: Caller, control: RunControl, clock: HostClock, budget_s: float
    ) -> None:
        self._database = database
        self._caller = caller
        self._control = control
        self._clock = clock
        self._deadline = clock.monotonic() + budget_s
        self._counts: Counter[str] = Counter()
        self._finished = True
        self._owner_needed = False

    def result(self, before: datetime | None) -> RetentionResult:
        counts: dict[str, Any] = dict(self._counts)
        return RetentionResult(
            kept_from=None if before is None else before.isoformat(),
            owner_needed=self._owner_needed,
            finished=self._finished,
            **counts,
        )

    def needs_owner(self) -> bool:
        """Return True if only the owner of the tables may go on, and this role is not (PostgreSQL)."""
        self._owner_needed |= self._database.postgres and not self._database.read(protection.role).owner
        return self._owner_needed

    def begin_partition(self, now: datetime) -> None:
        """Start the month's partition if the one in use is of an earlier month.

        It is created first, and used from a later transaction on: no event may get a position without a partition.
        """
        if not self._database.postgres:
            return
        number = self._database.read(partitions.next_due, now)
        if number is None:
            return
        if self.needs_owner():
            return
        try:
            self._database.write(lambda tx: partitions.create(tx, number, now), budget_s=0.0)
            hit("retention.before_begin")
            self._counts["partitions_begun"] += self._database.write(
                lambda tx: partitions.switch_to(tx, number), budget_s=0.0
            )
        except Busy:
            self._finished = False

    def delete_expired_data(self, limit: retention.Limit) -> None:
        """Delete bindings first: an event must never be deleted before its binding.

        In a sealed history the event that says so is sealed before anything is deleted: else a run in between
        would leave a deletion that nothing explains.
        """
        before = limit.kept_from
        if not self._database.read(seals.are_acts_sealed):
            return
        self._delete_bindings(before)
        self._batches("refusals", lambda tx: retention.delete_refusals(tx, before, limit=BATCH))
        self._batches("holds", lambda tx: retention.delete_holds(tx, before, limit=BATCH))
        self._batches("reports", lambda tx: retention.delete_reports(tx, before, limit=BATCH))
        if self._database.postgres:
            self._drop_partitions(limit)
        else:
            self._delete_events(limit)
        self._batches("deliveries", lambda tx: retention.delete_deliveries(tx, limit=BATCH))
        self._batches("texts", lambda tx: retention.delete_texts(tx, limit=BATCH))

    def _delete_bindings(self, before: datetime) -> None:
        if not self._finished:
            return

        def run_batch(since: datetime) -> tuple[int, datetime]:
            return self._database.write(
                lambda tx: _after_delete(retention.delete_bindings(tx, before, limit=BATCH, since=since))
            )

        deleted, _, self._finished = run_in_batches(
            run_batch,
            self._control,
            batch=BATCH,
            budget_s=self._deadline - self._clock.monotonic(),
            clock=self._clock,
        )
        self._counts["bindings"] += deleted

    def _delete_events(self, limit: retention.Limit) -> None:
        """Delete what is marked, also by a run that was interrupted, then mark the next ones."""
        marked = True
        while marked and self._finished and self._database.read(seals.are_acts_sealed):
            self._batches("events", lambda tx: retention.delete_marked_events(tx, limit=BATCH))
            if self._finished:
                marked = self._database.write(lambda tx: retention.mark_oldest_events(tx, limit, self._caller) > 0)

    def _batches(self, name: str, delete: Callable[[Transaction], int]) -> None:
        while self._finished:
            deleted = self._database.write(lambda tx: _after_delete(delete(tx)))
            self._counts[name] += deleted
            self._control.record_progress()
            if deleted < BATCH:
                return
            self._finished = not self._control.is_stopping() and self._clock.monotonic() < self._deadline

    def _drop_partitions(self, limit: retention.Limit) -> None:
        before = limit.kept_from
        # Also those that are old enough, and could not be deleted yet.
        kept_bindings = retention.all_bindings()
        ended = self._database.read(partitions.ended, before)
        droppable = partitions.droppable(self._database, ended, before=before, stays=kept_bindings)
        unfinished = self._database.read(partitions.half_detached)
        detached = self._database.read(partitions.detached_tables)
        try:
            for name in self._control.work_through(unfinished):
                partitions.detach(self._database, name)
            for name in self._control.work_through((*unfinished, *detached)):
                partitions.drop(self._database, name)
            for partition in self._control.work_through(droppable):
                self._drop(partition, limit)
        except Busy:
            self._finished = False
        else:
            self._finished &= not self._control.is_stopping()
            self._counts["partitions_waiting"] = len(ended) - self._counts["partitions"]

    def _drop(self, partition: partitions.DroppablePartition, limit: retention.Limit) -> None:
        newest = self._database.read(seals.last)
        if newest is not None and partition.last > newest.end:
            return
        self._database.write(
            lambda tx: retention.mark_events(tx, limit, self._caller, last=partition.last, count=partition.events)
        )
        hit("retention.after_mark")
        if not self._database.read(seals.are_acts_sealed):
            return  # the next run finds it marked
        partitions.detach(self._database, partition.name)
        hit("retention.after_detach")
        partitions.drop(self._database, partition.name)
        self._counts["partitions"] += 1
        self._counts["events"] += partition.events


def _after_delete(result: Result) -> Result:
    """Return what a batch has deleted but not committed; a fail point for tests."""
    hit("retention.in_transaction")
    return result
