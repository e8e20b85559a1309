"""How often what happened: the change feed, counted by minute and by hour, and how full the pools were.

No page may count millions of rows, so a pass counts each event once, soon after it happened: it follows the feed
from a cursor, and moves the cursor in the transaction that writes the counts. No event is counted twice or left
out, whoever runs the pass, and however late an event committed. Nothing here decides anything: a tally is for
people to look at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, delete, null, select, update

from bindings.domain.binding import EventKind, Reason
from bindings.store import pools
from bindings.store.events import after_position, final_events
from bindings.store.schema import events as events_table
from bindings.store.schema import pool_levels, tallies, tally_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection, Row, Select

    from bindings.store.database import Transaction

MINUTE, HOUR = 60, 3_600
KEPT = {MINUTE: timedelta(hours=26), HOUR: timedelta(days=400)}
LEVEL_EVERY_S = 300
LEVELS_KEPT = timedelta(days=8)
EXAMPLES = 5
TOLD = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)  # of these the detail says which code
OWN_IN_USE = "own_in_use"  # the provider found in use what a binding of ours explains: must never happen


@dataclass(frozen=True, kw_only=True, slots=True)
class EventCount:
    """How many events of one kind and code there were in a period of `period_s` seconds from `began_at` on."""

    period_s: int
    began_at: datetime
    kind: EventKind
    code: str
    number: int
    examples: list[dict[str, Any]]


@dataclass(kw_only=True, slots=True)
class _Sum:
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def count_events(tx: Transaction, *, limit: int) -> int:
    """Count up to `limit` events that are not counted yet; returns how many that were."""
    mark = _lock_mark(tx)
    found = tx.connection.execute(_uncounted(mark, postgres=tx.dialect.postgres).limit(limit)).all()
    now = tx.instant()
    _add(tx, _summed(found, now=now))
    moved = {"counted_to": now}
    if found:
        last = found[-1]
        moved = {"tx": last.tx, "position": last.position, "counted_to": last.at if len(found) == limit else now}
    tx.connection.execute(update(tally_marks).values(moved))
    return len(found)


def _lock_mark(tx: Transaction) -> tuple[int, int]:
    """The cursor, which nobody else moves until this transaction ends."""
    first = tx.dialect.insert(tally_marks).values(id=1, tx=0, position=0).on_conflict_do_nothing()
    tx.connection.execute(first)
    mark = tx.connection.execute(select(tally_marks).with_for_update()).one()
    return mark.tx, mark.position


def _uncounted(mark: tuple[int, int], *, postgres: bool) -> Select[Any]:
    column = events_table.c
    told = case((column.kind.in_(TOLD), column.detail), else_=null()).label("told")
    shown = (column.tx, column.position, column.kind, column.at, column.binding_id, told)
    return final_events(postgres=postgres).with_only_columns(*shown).where(after_position(mark, postgres=postgres))


def _summed(found: Sequence[Row[Any]], *, now: datetime) -> dict[tuple[Any, ...], _Sum]:
    sums: dict[tuple[Any, ...], _Sum] = {}
    for row in found:
        code = _code(row.kind, row.told)
        for period_s, kept in KEPT.items():
            began = _floor(row.at, period_s)
            if began < now - kept:
                continue
            entry = sums.setdefault((period_s, began, row.kind, code), _Sum())
            entry.count += 1
            if row.told is not None:
                entry.examples = [_example(row), *entry.examples[: EXAMPLES - 1]]
    return sums


def _code(kind: str, told: dict[str, Any] | None) -> str:
    """What a page groups by: the provider's status, or our own word where it said none."""
    if told is None:
        return ""
    if kind == EventKind.REFUSED:
        return str(told.get("held_by") or "unknown")
    reason, status = told.get("reason"), told.get("status")
    if reason == Reason.IN_USE and told.get("own"):
        return OWN_IN_USE
    if reason in (Reason.ABSENT, Reason.VOUCHED, Reason.BIND_ID_TAKEN):  # the status is that of the doubt before
        return str(reason)
    return str(status or reason or "unknown")[:32]


def _example(row: Row[Any]) -> dict[str, Any]:
    told = row.told
    shown = {"at": row.at.isoformat(), "binding_id": row.binding_id}
    if row.kind == EventKind.REFUSED:
        shown |= {
            "binding_id": told.get("holder_id"),
            "reference": told.get("reference"),
            "mode": told.get("mode"),
        }
    return shown


def _floor(at: datetime, period_s: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // period_s * period_s, UTC)


def _add(tx: Transaction, sums: dict[tuple[Any, ...], _Sum]) -> None:
    """Add to what is there; the locked cursor keeps everybody else out."""
    for period_s in KEPT:
        begun = [key[1] for key in sums if key[0] == period_s]
        if not begun:
            continue
        for row in _rows(tx.connection, period_s, since=min(begun), until=max(begun)):
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
        new = {"number": statement.excluded.number, "examples": statement.excluded.examples}
        tx.connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=new), values)


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
    """What was counted in the periods that began at `instant` or later, oldest first."""
    return [
        EventCount(**dict(row._mapping) | {"kind": EventKind(row.kind)})  # noqa: SLF001 -- the row's public way
        for row in _rows(connection, period_s, since=instant, kinds=kinds)
    ]


def counted_to(connection: Connection) -> datetime | None:
    """Up to when everything is counted, but for what has not committed; None before the first pass."""
    return connection.execute(select(tally_marks.c.counted_to)).scalar()


def delete_old(tx: Transaction) -> None:
    """Drop what is too old to be shown."""
    now = tx.instant()
    for period_s, kept in KEPT.items():
        tx.connection.execute(
            delete(tallies).where(tallies.c.period_s == period_s, tallies.c.began_at < now - kept)
        )
    tx.connection.execute(delete(pool_levels).where(pool_levels.c.at < now - LEVELS_KEPT))


# Pools.


def record_pool_levels(tx: Transaction) -> None:
    """Keep what the pools were last counted at, once in five minutes; counts nothing itself."""
    levels = [
        {
            "app_id": pool.app_id,
            "pool_number": pool.pool_number,
            "at": _floor(pool.counted_at, LEVEL_EVERY_S),
            "live": pool.live,
        }
        for pool in pools.list_all(tx.connection)
        if pool.counted_at is not None and pool.live is not None
    ]
    if levels:
        tx.connection.execute(tx.dialect.insert(pool_levels).on_conflict_do_nothing(), levels)


def levels(connection: Connection, *, since: datetime) -> dict[tuple[str, str], list[tuple[datetime, int]]]:
    """How many were live in each pool, (app_id, pool_number), since an instant; oldest first."""
    found: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
    statement = select(pool_levels).where(pool_levels.c.at >= since).order_by(pool_levels.c.at)
    for row in connection.execute(statement):
        found.setdefault((row.app_id, row.pool_number), []).append((row.at, row.live))
    return found
