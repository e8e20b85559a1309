"""Event counts by minute and by hour, made from the change feed, and the past levels of the pools.

No page may count millions of rows, so a job counts each event once, soon after it happened: it follows the feed
from a cursor, and moves the cursor in the transaction that writes the counts. No event is counted twice or left
out, whichever replica runs the job and however late an event committed. The counts are only displayed: no decision
depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, delete, null, select, update

from bindings.domain.binding import EventKind, Reason
from bindings.store import pools, sql
from bindings.store.events import REFUSAL_ID, after_position, final_events
from bindings.store.schema import events as events_table
from bindings.store.schema import pool_levels, tallies, tally_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row, Select

    from bindings.store.database import Transaction

MINUTE, HOUR = 60, 3_600
KEPT_FOR = {MINUTE: timedelta(hours=26), HOUR: timedelta(days=400)}
LEVEL_EVERY_S = 300
LEVELS_KEPT = timedelta(days=8)
EXAMPLES = 5
WITH_CODE = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)  # the kinds whose detail has a code
OWN_IN_USE = "own_in_use"  # the provider refused a phone as in use that our binding holds: must never happen


@dataclass(frozen=True, kw_only=True, slots=True)
class EventCount:
    """The number of events of one kind and code in a period of `period_s` seconds from `began_at` on."""

    period_s: int
    began_at: datetime
    kind: str
    code: str
    number: int
    examples: list[dict[str, Any]]


@dataclass(kw_only=True, slots=True)
class _Sum:
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def count_events(tx: Transaction, *, limit: int) -> int:
    """Count up to `limit` events that are not counted yet; return how many."""
    mark = _lock_mark(tx)
    rows = tx.connection.execute(_uncounted(mark, postgres=tx.dialect.postgres).limit(limit)).all()
    now = tx.instant()
    _add(tx, _sum_up(rows, now=now))
    values = {"counted_to": now}
    if rows:
        last = rows[-1]
        values = {"tx": last.tx, "position": last.position, "counted_to": last.at if len(rows) == limit else now}
    tx.connection.execute(update(tally_marks).values(values))
    return len(rows)


def _lock_mark(tx: Transaction) -> tuple[int, int]:
    """Lock the cursor until this transaction ends, and return it."""
    first = tx.dialect.insert(tally_marks).values(id=1, tx=0, position=0).on_conflict_do_nothing()
    tx.connection.execute(first)
    mark = tx.connection.execute(select(tally_marks).with_for_update()).one()
    return mark.tx, mark.position


def _uncounted(mark: tuple[int, int], *, postgres: bool) -> Select[Any]:
    """Return a SELECT of the final events after `mark`; `code_detail` is the detail of kinds that have a code."""
    column = events_table.c
    code_detail = case((column.kind.in_(WITH_CODE), column.detail), else_=null()).label("code_detail")
    selected = (column.tx, column.position, column.kind, column.at, column.binding_id, code_detail)
    uncounted = final_events(postgres=postgres).with_only_columns(*selected)
    return uncounted.where(after_position(mark, postgres=postgres))


def _sum_up(rows: Sequence[Row[Any]], *, now: datetime) -> dict[tuple[Any, ...], _Sum]:
    sums: dict[tuple[Any, ...], _Sum] = {}
    for row in rows:
        code = code_of(row.kind, row.code_detail)
        for period_s, retention in KEPT_FOR.items():
            period_start = _floor(row.at, period_s)
            if period_start < now - retention:
                continue
            entry = sums.setdefault((period_s, period_start, row.kind, code), _Sum())
            entry.count += 1
            if row.code_detail is not None:
                entry.examples = [_example(row), *entry.examples[: EXAMPLES - 1]]
    return sums


def code_of(kind: str, detail: dict[str, Any] | None) -> str:
    """Return the code that a page groups by: the provider's status, or our reason if there is no status."""
    if detail is None:
        return ""
    if kind == EventKind.REFUSED:
        return str(detail.get("held_by") or "unknown")[:32]
    reason, status = detail.get("reason"), detail.get("status")
    if reason == Reason.IN_USE and detail.get("own"):
        return OWN_IN_USE
    if reason in (Reason.ABSENT, Reason.VOUCHED, Reason.BIND_ID_TAKEN):  # the status is that of the earlier doubt
        return str(reason)
    return str(status or reason or "unknown")[:32]


def _example(row: Row[Any]) -> dict[str, Any]:
    example = {"at": row.at.isoformat(), "binding_id": row.binding_id}
    if row.kind == EventKind.REFUSED:
        detail = row.code_detail
        example |= {
            "binding_id": detail.get("holder_id"),
            "refusal_id": detail.get(REFUSAL_ID),
            "mode": detail.get("mode"),
        }
    return example


def _floor(at: datetime, period_s: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // period_s * period_s, UTC)


def _add(tx: Transaction, sums: dict[tuple[Any, ...], _Sum]) -> None:
    """Add the sums to the stored counts. The cursor is locked, so no other replica does so at the same time."""
    for period_s in KEPT_FOR:
        starts = [key[1] for key in sums if key[0] == period_s]
        if not starts:
            continue
        for row in _rows(tx.connection, period_s, since=min(starts), until=max(starts)):
            entry = sums.get((period_s, row.began_at, row.kind, row.code))
            if entry is not None:
                entry.count += row.number
                entry.examples = [*entry.examples, *row.examples][:EXAMPLES]
    values = [
        {**dict(zip(_KEY, key, strict=True)), "number": entry.count, "examples": entry.examples}
        for key, entry in sums.items()
    ]
    if values:
        statement = tx.dialect.insert(tallies)
        new_values = {"number": statement.excluded.number, "examples": statement.excluded.examples}
        tx.connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=new_values), values)


_KEY = ("period_s", "began_at", "kind", "code")


def _rows(
    connection: Connection,
    period_s: int,
    *,
    since: datetime,
    until: datetime | None = None,
    kinds: Iterable[EventKind] | None = None,
) -> Sequence[Row[Any]]:
    statement = select(tallies).where(tallies.c.period_s == period_s, tallies.c.began_at >= since)
    if until is not None:
        statement = statement.where(tallies.c.began_at <= until)
    if kinds is not None:
        statement = statement.where(tallies.c.kind.in_(list(kinds)))
    return connection.execute(statement.order_by(tallies.c.began_at)).all()


def counts_since(
    connection: Connection, instant: datetime, *, period_s: int, kinds: Iterable[EventKind]
) -> list[EventCount]:
    """Return the counts of the periods that began at `instant` or later, oldest first."""
    return [
        sql.record(EventCount, row, kind=sql.member(EventKind, row.kind))
        for row in _rows(connection, period_s, since=instant, kinds=kinds)
    ]


def counted_to(connection: Connection) -> datetime | None:
    """Return up to when all committed events are counted, or None before the first run of the job."""
    return connection.execute(select(tally_marks.c.counted_to)).scalar()


def delete_old(tx: Transaction) -> None:
    """Delete counts and levels that are too old to be displayed."""
    now = tx.instant()
    for period_s, retention in KEPT_FOR.items():
        tx.connection.execute(
            delete(tallies).where(tallies.c.period_s == period_s, tallies.c.began_at < now - retention)
        )
    tx.connection.execute(delete(pool_levels).where(pool_levels.c.at < now - LEVELS_KEPT))


# Pools.


def record_pool_levels(tx: Transaction) -> None:
    """Record the latest counts of the pools, once in five minutes; counts nothing itself."""
    current = [
        {
            "app_id": pool.app_id,
            "pool_number": pool.pool_number,
            "at": _floor(pool.counted_at, LEVEL_EVERY_S),
            "live": pool.live,
        }
        for pool in pools.list_all(tx.connection)
        if pool.counted_at is not None and pool.live is not None
    ]
    if current:
        tx.connection.execute(tx.dialect.insert(pool_levels).on_conflict_do_nothing(), current)


def levels(connection: Connection, *, since: datetime) -> dict[tuple[str, str], list[tuple[datetime, int]]]:
    """Return the (instant, live bindings) of each pool, (app_id, pool_number), since an instant; oldest first."""
    by_pool: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
    statement = select(pool_levels).where(pool_levels.c.at >= since).order_by(pool_levels.c.at)
    for row in connection.execute(statement):
        by_pool.setdefault((row.app_id, row.pool_number), []).append((row.at, row.live))
    return by_pool
