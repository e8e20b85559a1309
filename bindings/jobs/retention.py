"""Forget what has been over for long enough, and begin each month's partition of events.

Nothing is forgotten unless a setting says for how long to keep. Never a binding that is open or whose phones may
be held, never an event of a binding that stays, nor one that a webhook has still to be sent. An idempotency key
goes with its binding: so far, and no further, it yields the same one (I8).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.errors import Busy
from bindings.failpoints import hit
from bindings.jobs.expire import run_in_batches
from bindings.store import partitions, retention

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.store.database import Database, Transaction

Deleted = TypeVar("Deleted")

BATCH = 500
BUDGET_S = 20.0  # of each minute: a first run over years of history takes its time


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionResult:
    """What one pass deleted, or would delete (`dry_run`).

    `kept_from`: what was over before this instant goes; None: everything is kept. `partitions` of events were
    dropped, with `events` in them; `partitions_waiting` are old enough, and needed by a binding that stays or by a
    webhook. `partitions_begun` is 1 at the first run of a month. `finished` is False where time ran out or a lock
    was not to be had, `owner_needed` True where partitions must be seen to by the owner of the tables.
    """

    kept_from: str | None = None
    bindings: int = 0
    events: int = 0
    holds: int = 0
    reports: int = 0
    deliveries: int = 0
    partitions: int = 0
    partitions_waiting: int = 0
    partitions_begun: int = 0
    owner_needed: bool = False
    finished: bool = True
    dry_run: bool = False


def apply_retention(
    database: Database, keep_days: int | None, *, dry_run: bool = False, budget_s: float = BUDGET_S
) -> RetentionResult:
    """One pass, of at most about `budget_s` seconds. Safe to repeat, to stop anywhere, and to run side by side."""
    now = database.clock()
    before = None if keep_days is None else now - timedelta(days=keep_days)
    if dry_run:
        return _dry_run(database, before)
    run = _Run(database, time.monotonic() + budget_s)
    run.begin_partition(now)
    if keep_days is None:
        return run.result(None)
    before = database.write(lambda tx: retention.set_kept_from(tx, timedelta(days=keep_days)))
    run.delete_expired_data(before)
    return run.result(before)


def _dry_run(database: Database, before: datetime | None) -> RetentionResult:
    if before is None:
        return RetentionResult(dry_run=True)
    counts: dict[str, Any] = database.read(retention.count, before)
    if not database.postgres:
        events = database.read(retention.count_events, before)
        return RetentionResult(kept_from=before.isoformat(), events=events, dry_run=True, **counts)
    ended = database.read(partitions.ended, before)
    old = list(partitions.droppable(database, ended, before=before, stays=retention.not_deletable(before)))
    return RetentionResult(
        kept_from=before.isoformat(),
        events=sum(each.events for each in old),
        partitions=len(old),
        partitions_waiting=len(ended) - len(old),
        owner_needed=bool(old) and not database.read(partitions.is_owner),
        dry_run=True,
        **counts,
    )


class _Run:
    """One pass under way: what it has done so far."""

    def __init__(self, database: Database, deadline: float) -> None:
        self._database = database
        self._deadline = deadline
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

    def begin_partition(self, now: datetime) -> None:
        """Begin the month's partition where the one in use is of an earlier month.

        Made first, and entered in a transaction of its own: positions must never lie where nothing is.
        """
        if not self._database.postgres:
            return
        number = self._database.read(partitions.next_due, now)
        if number is None:
            return
        if not self._database.read(partitions.is_owner):
            self._owner_needed = True
            return
        try:
            self._database.write(lambda tx: partitions.create(tx, number, now), budget_s=0.0)
            hit("retention.before_begin")
            self._counts["partitions_begun"] += self._database.write(
                lambda tx: partitions.switch_to(tx, number), budget_s=0.0
            )
        except Busy:
            self._finished = False

    def delete_expired_data(self, before: datetime) -> None:
        """Bindings first: an event must never go before its binding."""
        self._delete_bindings(before)
        self._batches("holds", lambda tx: retention.delete_holds(tx, before, limit=BATCH))
        self._batches("reports", lambda tx: retention.delete_reports(tx, before, limit=BATCH))
        if self._database.postgres:
            self._drop_partitions(before)
        else:
            self._batches("events", lambda tx: retention.delete_events(tx, before, limit=BATCH))
        self._batches("deliveries", lambda tx: retention.delete_deliveries(tx, limit=BATCH))

    def _delete_bindings(self, before: datetime) -> None:
        if not self._finished:
            return

        def one_batch(since: datetime) -> tuple[int, datetime]:
            return self._database.write(
                lambda tx: _after_delete(retention.delete_bindings(tx, before, limit=BATCH, since=since))
            )

        deleted, _, self._finished = run_in_batches(
            one_batch, batch=BATCH, budget_s=self._deadline - time.monotonic()
        )
        self._counts["bindings"] += deleted

    def _batches(self, name: str, delete: Callable[[Transaction], int]) -> None:
        while self._finished:
            deleted = self._database.write(lambda tx: _after_delete(delete(tx)))
            self._counts[name] += deleted
            if deleted < BATCH:
                return
            self._finished = time.monotonic() < self._deadline

    def _drop_partitions(self, before: datetime) -> None:
        every = retention.all_bindings()  # also one that should be gone by now, and could not be deleted yet
        ended = self._database.read(partitions.ended, before)
        old = partitions.droppable(self._database, ended, before=before, stays=every)
        unfinished = self._database.read(partitions.half_detached)
        left_over = self._database.read(partitions.detached_tables)
        if not self._database.read(partitions.is_owner):
            going = len(list(old))
            self._owner_needed |= bool(going or unfinished or left_over)
            self._counts["partitions_waiting"] = len(ended) - going
            return
        try:
            for name in unfinished:
                partitions.detach(self._database, name)
            for name in (*unfinished, *left_over):
                partitions.drop(self._database, name)
            for each in old:
                self._drop(each)
        except Busy:
            self._finished = False
        else:
            self._counts["partitions_waiting"] = len(ended) - self._counts["partitions"]

    def _drop(self, old: partitions.DroppablePartition) -> None:
        self._database.write(lambda tx: retention.mark_events(tx, old.last))
        hit("retention.after_mark")
        partitions.detach(self._database, old.name)
        hit("retention.after_detach")
        partitions.drop(self._database, old.name)
        self._counts["partitions"] += 1
        self._counts["events"] += old.events


def _after_delete(deleted: Deleted) -> Deleted:
    """What a batch has deleted, and not committed yet."""
    hit("retention.in_transaction")
    return deleted
