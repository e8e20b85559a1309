"""The runs of jobs: one row per (job, slot) of the table `passes`, for jobs that must run once per period.

There is no leader. The replica that first inserts the row of a period's slot runs the job; the others find the
slot claimed. The readiness checks read from the same rows when a job last finished. The columns `task` and `slot`
are the job's name and the number of the period since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from bindings.store import account
from bindings.store.one_row import first_column, one_row
from bindings.store.schema import passes

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

    from bindings.store.database import Transaction

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEPT_FOR = 100  # slots of a job that are not deleted


def claim_slot(tx: Transaction, job: str, period_s: float, replica: str) -> int | None:
    """Claim the current period's slot of a job and return it, or None if another replica has claimed it."""
    now = tx.instant()
    slot = int((now - EPOCH) / timedelta(seconds=period_s))
    claimed = tx.connection.execute(
        tx.dialect.insert(passes)
        .values(task=job, slot=slot, started_at=now, replica=replica)
        .on_conflict_do_nothing()
        .returning(passes.c.slot)
    ).scalar()
    if claimed is None and tx.attempt > 1:
        # The earlier attempt may have committed: then this replica has the slot.
        own_run = passes.c.replica == replica, passes.c.finished_at.is_(None)
        claimed = tx.connection.execute(
            select(passes.c.slot).where(passes.c.task == job, passes.c.slot == slot, *own_run)
        ).scalar()
    if claimed is not None:
        tx.connection.execute(passes.delete().where(passes.c.task == job, passes.c.slot < slot - KEPT_FOR))
    return claimed


def finish(tx: Transaction, job: str, slot: int, counts: dict[str, Any]) -> None:
    """Record that the run of a slot is finished, and its counts."""
    tx.connection.execute(
        update(passes)
        .where(passes.c.task == job, passes.c.slot == slot)
        .values(finished_at=tx.instant(), counts=counts)
    )


def release_slot(tx: Transaction, job: str, slot: int, replica: str) -> None:
    """Give a slot back that this replica has claimed and not finished."""
    own_run = passes.c.replica == replica, passes.c.finished_at.is_(None)
    tx.connection.execute(passes.delete().where(passes.c.task == job, passes.c.slot == slot, *own_run))


def record_heartbeat(tx: Transaction, job: str, replica: str) -> None:
    """Record that this replica has just finished a job that every replica runs; such a job has one row, slot 0."""
    now = tx.instant()
    if not tx.dialect.postgres:
        account.record_host(tx)
    statement = tx.dialect.insert(passes).values(
        task=job, slot=0, started_at=now, finished_at=now, replica=replica
    )
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=["task", "slot"], set_={"finished_at": now, "replica": replica}
        )
    )


def record_progress(tx: Transaction, job: str, replica: str, counts: dict[str, Any], *, finished: bool) -> None:
    """Record how far a job has come that a person runs; such a job has one row, slot 0.

    Its `started_at` is the first time that progress was recorded.
    """
    now = tx.instant()
    values = {"finished_at": now if finished else None, "replica": replica, "counts": counts}
    statement = tx.dialect.insert(passes).values(task=job, slot=0, started_at=now, **values)
    tx.connection.execute(statement.on_conflict_do_update(index_elements=["task", "slot"], set_=values))


def progress(connection: Connection, job: str) -> dict[str, Any]:
    """Return the counts of the last `record_progress` of a job; empty without one."""
    statement = select(passes.c.counts).where(passes.c.task == job, passes.c.slot == 0)
    return connection.execute(statement).scalar() or {}


def last_started(connection: Connection, job: str) -> datetime | None:
    """Return when any replica last started the job, or None if no run is recorded."""
    newest = select(passes.c.started_at).where(passes.c.task == job).order_by(passes.c.slot.desc()).limit(1)
    return connection.execute(newest).scalar()


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The newest run of a job that is claimed per period: how long it took or has been running."""

    seconds: float
    finished: bool


def _to_run(started_at: datetime | None, finished_at: datetime | None, now: datetime) -> Run | None:
    if started_at is None:
        return None
    seconds = ((finished_at or now) - started_at).total_seconds()
    return Run(seconds=max(0.0, seconds), finished=finished_at is not None)


@one_row(_to_run)
def newest_run(job: str, now: ColumnElement[datetime]) -> Select[Any]:
    """Return the newest run of a job, or None if none is recorded."""
    newest = select(passes.c.started_at, passes.c.finished_at, now.label("now")).where(passes.c.task == job)
    return newest.order_by(passes.c.slot.desc()).limit(1)


def last_counts(connection: Connection, job: str) -> dict[str, Any]:
    """Return the counts of the newest finished run of a job that is claimed per period; empty without one."""
    finished = select(passes.c.counts).where(passes.c.task == job, passes.c.finished_at.is_not(None))
    return connection.execute(finished.order_by(passes.c.slot.desc()).limit(1)).scalar() or {}


@one_row(first_column)
def last_finished(job: str) -> Select[Any]:
    """Return when any replica last finished the job, or None if no finished run is recorded."""
    return select(func.max(passes.c.finished_at)).where(passes.c.task == job)
