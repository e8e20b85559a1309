"""How full each pool is: counted by a job, and recorded immediately when the provider has no number left (-41).

There is a row for each pool that is in use or has a known limit. Live bindings are counted for all pools at once,
by the index of live rows, and never while a bind waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, select, update

from bindings.domain.binding import EventKind, State
from bindings.store import events, sql
from bindings.store.bindings import in_state
from bindings.store.schema import bindings, pools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """One pool of one application, as far as it is known.

    `live` bindings were counted at `counted_at`; `capacity` is what was live when the provider last had no number
    left (`refused_at`, -41), None if that never happened or if more has been live since. `low_at` is when a
    warning was written; it is cleared when the pool has free numbers again.
    """

    app_id: str
    pool_number: str
    live: int | None
    counted_at: datetime | None
    capacity: int | None
    refused_at: datetime | None
    low_at: datetime | None


_COLUMNS = sql.columns(pools, Pool)
# When the provider last had no number left in the pool :of_pool_number of :of_app_id.
REFUSED_AT = (
    select(pools.c.refused_at)
    .where(pools.c.app_id == bindparam("of_app_id"), pools.c.pool_number == bindparam("of_pool_number"))
    .scalar_subquery()
)


def list_all(connection: Connection) -> list[Pool]:
    """Return every pool that is in use or has a known limit."""
    rows = connection.execute(select(*_COLUMNS).order_by(pools.c.pool_number, pools.c.app_id))
    return [sql.record(Pool, row) for row in rows]


def live(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of live bindings by (app_id, pool_number). Reads every live row."""
    by = bindings.c.app_id, bindings.c.pool_number
    statement = select(*by, func.count()).where(in_state(State.ACTIVE)).group_by(*by)
    return {(app_id, pool_number): number for app_id, pool_number, number in connection.execute(statement)}


def lock(tx: Transaction, in_use: Iterable[tuple[str, str]]) -> list[Pool]:
    """Lock the recorded pools and those in use until the transaction ends, and return them.

    A missing row cannot be locked, and a -41 might insert it meanwhile: so the rows of pools in use are inserted
    first.
    """
    keys = [{"app_id": app_id, "pool_number": pool_number} for app_id, pool_number in sorted(in_use)]
    if keys:
        tx.connection.execute(tx.dialect.insert(pools).on_conflict_do_nothing(), keys)
    rows = tx.connection.execute(select(*_COLUMNS).order_by(*pools.primary_key.columns).with_for_update())
    return [sql.record(Pool, row) for row in rows]


def save(tx: Transaction, changed: Sequence[Pool]) -> None:
    """Store the counts and conclusions about pools that this transaction has locked."""
    if not changed:
        return
    is_pool = pools.c.app_id == bindparam("of_app_id"), pools.c.pool_number == bindparam("of_pool_number")
    names = ("live", "counted_at", "capacity", "low_at")
    values = [
        {"of_app_id": pool.app_id, "of_pool_number": pool.pool_number}
        | {f"new_{name}": getattr(pool, name) for name in names}
        for pool in changed
    ]
    columns: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    tx.connection.execute(update(pools).where(*is_pool).values(columns), values)


def delete_unused(tx: Transaction, unused: Iterable[Pool]) -> None:
    """Delete the rows of pools that are not in use and have no known limit."""
    for pool in unused:
        tx.connection.execute(delete(pools).where(*_is(pool.app_id, pool.pool_number)))


def record_exhausted(tx: Transaction, caller: Caller, *, app_id: str, pool_number: str) -> None:
    """Record that the provider had no number left (-41), and warn unless the pool is low. Safe to repeat."""
    now = tx.instant()
    statement = (
        tx.dialect.insert(pools)
        .values(app_id=app_id, pool_number=pool_number, refused_at=now)
        .on_conflict_do_update(index_elements=["app_id", "pool_number"], set_={"refused_at": now})
        .returning(*_COLUMNS)
    )
    pool = sql.record(Pool, tx.connection.execute(statement).one())
    if pool.low_at is None:
        tx.connection.execute(update(pools).where(*_is(app_id, pool_number)).values(low_at=now))
        append_pool_low(tx, caller, pool, cause="no_number")


def append_pool_low(tx: Transaction, caller: Caller, pool: Pool, *, cause: str) -> None:
    """Write the `pool_low` event: `cause` is "share" (nearly full) or "no_number" (-41)."""
    names = ("app_id", "pool_number", "live", "capacity")
    detail = {name: value for name in names if (value := getattr(pool, name)) is not None}
    events.append_without_binding(tx, EventKind.POOL_LOW, caller, detail | {"why": cause})


def _is(app_id: str, pool_number: str) -> tuple[Any, ...]:
    return pools.c.app_id == app_id, pools.c.pool_number == pool_number
