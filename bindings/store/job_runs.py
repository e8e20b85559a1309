"""Who ran which pass when: one row per (task, slot) for work that must run once per period.

There is no leader. Whoever inserts the row for a period first runs the pass; the others find it taken. The
same rows tell readiness when a pass last finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from bindings.store import account
from bindings.store.column_types import Instant
from bindings.store.schema import passes

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bindings.store.database import Transaction

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEPT = 100  # slots of a task that stay for reading


def claim_slot(tx: Transaction, task: str, period_s: float, replica: str) -> int | None:
    """Take the current period's slot of a task; None where another replica has it."""
    now = tx.instant()
    slot = int((now - EPOCH) / timedelta(seconds=period_s))
    taken = tx.connection.execute(
        tx.dialect.insert(passes)
        .values(task=task, slot=slot, started_at=now, replica=replica)
        .on_conflict_do_nothing()
        .returning(passes.c.slot)
    ).scalar()
    if taken is None and tx.attempt > 1:  # the earlier try may have committed: then the slot is ours already
        mine = passes.c.replica == replica, passes.c.finished_at.is_(None)
        taken = tx.connection.execute(
            select(passes.c.slot).where(passes.c.task == task, passes.c.slot == slot, *mine)
        ).scalar()
    if taken is not None:
        tx.connection.execute(passes.delete().where(passes.c.task == task, passes.c.slot < slot - KEPT))
    return taken


def finish(tx: Transaction, task: str, slot: int, counts: dict[str, Any]) -> None:
    """Record that the pass of a slot came to its end."""
    tx.connection.execute(
        update(passes)
        .where(passes.c.task == task, passes.c.slot == slot)
        .values(finished_at=tx.instant(), counts=counts)
    )


def record_heartbeat(tx: Transaction, task: str, replica: str) -> None:
    """Record that a pass which every replica runs has just finished, in the task's one row."""
    now = tx.instant()
    if not tx.dialect.postgres:
        account.record_host(tx)
    statement = tx.dialect.insert(passes).values(
        task=task, slot=0, started_at=now, finished_at=now, replica=replica
    )
    tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=["task", "slot"], set_={"finished_at": now, "replica": replica}
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """A process that ran passes, and when it was last seen to."""

    name: str
    seen_at: datetime


def replicas(connection: Connection) -> list[Replica]:
    """The processes that ran a pass lately, the last seen first; a few hundred rows are read."""
    seen_at = func.max(func.coalesce(passes.c.finished_at, passes.c.started_at, type_=Instant)).label("seen_at")
    statement = select(passes.c.replica, seen_at).group_by(passes.c.replica).order_by(seen_at.desc())
    return [Replica(name=name, seen_at=seen) for name, seen in connection.execute(statement)]


def last_started(connection: Connection, task: str) -> datetime | None:
    """When a pass of the task last began anywhere; None where none has."""
    newest = select(passes.c.started_at).where(passes.c.task == task).order_by(passes.c.slot.desc()).limit(1)
    return connection.execute(newest).scalar()


def last_finished(connection: Connection, task: str) -> datetime | None:
    """When a pass of the task last finished anywhere; None where none has."""
    return connection.execute(select(func.max(passes.c.finished_at)).where(passes.c.task == task)).scalar()
