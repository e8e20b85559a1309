"""Event counts by minute, hour and day, made from the change feed, and the past levels of the pools.

No page may count millions of rows, so a job counts each event once, soon after it happened: it follows the feed
from a cursor, and moves the cursor in the transaction that writes the counts. No event is counted twice or left
out, whichever replica runs the job and however late an event committed. The counts are only displayed: no decision
depends on them.

Binds are also counted by application and pool, in `bind_counts`; a process of the version before 0021 does not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Integer, and_, case, cast, delete, func, literal, null, select, update

from bindings.domain.binding import EventKind, Reason
from bindings.store import pools, sql
from bindings.store.column_types import Detail, Instant
from bindings.store.events import REFUSAL_ID, after_position, final_events
from bindings.store.one_row import first_column, one_row
from bindings.store.schema import bind_counts, bindings, pool_levels, refusals, tallies, tally_marks
from bindings.store.schema import events as events_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from bindings.store.database import Transaction

MINUTE, HOUR, DAY = 60, 3_600, 86_400
KEPT_FOR = {MINUTE: timedelta(hours=26), HOUR: timedelta(days=400)}
DAYS_KEPT = timedelta(days=400)
BINDS_KEPT_FOR = {MINUTE: timedelta(hours=26), HOUR: timedelta(days=35), DAY: timedelta(days=400)}
LEVEL_EVERY_S = 300
LEVELS_KEPT = timedelta(days=8)
EXAMPLES = 5
WITH_CODE = (EventKind.FAILED, EventKind.IN_DOUBT, EventKind.REFUSED)  # the kinds whose detail has a code
OF_BINDS = (EventKind.REQUESTED, *WITH_CODE)  # the kinds that are counted by application and pool
OWN_IN_USE = "own_in_use"  # the provider refused a phone as in use that our binding holds: must never happen


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """A stretch of time, `since` up to before `until`; both begin a minute, an hour or a day (UTC).

    `unit_s` is the length of the stored periods to read.
    """

    since: datetime
    until: datetime
    unit_s: int


class EventCount(NamedTuple):
    """The number of events of one kind and code in a step; the first is 0."""

    step: int
    kind: str
    code: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BindCount:
    """The number of events of one kind and code about binds of one application and pool."""

    app_id: str
    pool_number: str
    kind: str
    code: str
    number: int


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
    _sum_up_days(tx, rows, now=now)
    _add_binds(tx, rows, now=now)
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
    of_bind = (_of_bind(name).label(name) for name in ("app_id", "pool_number"))
    uncounted = final_events(postgres=postgres).with_only_columns(*selected, *of_bind)
    return uncounted.where(after_position(mark, postgres=postgres))


def _of_bind(name: str) -> ColumnElement[str | None]:
    """Return a column of the bind that an event is about, by one probe of an index; None for other kinds."""
    event = events_table.c
    refusal = and_(refusals.c.at == event.at, refusals.c.event_position == event.position)
    of_refusal = select(refusals.c[name]).where(refusal).limit(1).scalar_subquery()
    of_binding = select(bindings.c[name]).where(bindings.c.id == event.binding_id).scalar_subquery()
    return case(
        (event.kind == EventKind.REFUSED, of_refusal), (event.kind.in_(OF_BINDS), of_binding), else_=null()
    )


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


def _sum_up_days(tx: Transaction, rows: Sequence[Row[Any]], *, now: datetime) -> None:
    """Sum the hours of each day with new events, and so also what an earlier version has counted."""
    of = tallies.c.kind, tallies.c.code
    for day in sorted({_floor(row.at, DAY) for row in rows}):
        if day < now - DAYS_KEPT:
            continue
        of_day = tallies.c.began_at >= day, tallies.c.began_at < day + timedelta(seconds=DAY)
        number = cast(func.sum(tallies.c.number), Integer)
        summed = select(literal(DAY), literal(day, Instant), *of, number, literal([], Detail))
        hours = summed.where(tallies.c.period_s == HOUR, *of_day).group_by(*of)
        names = [*_KEY, "number", "examples"]
        statement = tx.dialect.insert(tallies).from_select(names, hours)
        tx.connection.execute(
            statement.on_conflict_do_update(index_elements=_KEY, set_={"number": statement.excluded.number})
        )


def _add_binds(tx: Transaction, rows: Sequence[Row[Any]], *, now: datetime) -> None:
    """Add the events about binds to the stored counts by application and pool."""
    sums: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        if row.app_id is None:  # another kind, or the row of the bind is deleted
            continue
        code = code_of(row.kind, row.code_detail)
        for period_s, retention in BINDS_KEPT_FOR.items():
            period_start = _floor(row.at, period_s)
            if period_start >= now - retention:
                sums[period_s, period_start, row.app_id, row.pool_number, row.kind, code] += 1
    if not sums:
        return
    key = [column.name for column in bind_counts.primary_key.columns]
    statement = tx.dialect.insert(bind_counts)
    added = bind_counts.c.number + statement.excluded.number
    values = [{**dict(zip(key, names, strict=True)), "number": number} for names, number in sums.items()]
    tx.connection.execute(statement.on_conflict_do_update(index_elements=key, set_={"number": added}), values)


def code_of(kind: str, detail: dict[str, Any] | None) -> str:
    """Return the code that a page groups by: the provider's status, or our reason if there is no status.

    A refused bind has what held its phone, or the status with which the provider had refused the account.
    """
    if detail is None:
        return ""
    if kind == EventKind.REFUSED:
        return str(detail.get("held_by") or detail.get("status") or "unknown")[:32]
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


def _rows(connection: Connection, period_s: int, *, since: datetime, until: datetime) -> Sequence[Row[Any]]:
    in_range = tallies.c.began_at >= since, tallies.c.began_at <= until
    return connection.execute(select(tallies).where(tallies.c.period_s == period_s, *in_range)).all()


def count_by_step(
    connection: Connection,
    period: Period,
    *,
    step_s: int,
    kinds: Iterable[EventKind],
    app_id: str | None = None,
    pool_number: str | None = None,
) -> list[EventCount]:
    """Count the events of a period by kind, code and step; with an application or a pool those of its binds."""
    if app_id is None and pool_number is None:
        table, conditions = tallies, _in_period(tallies, period, period.unit_s)
    else:
        table, conditions = bind_counts, _in_period(bind_counts, period, period.unit_s)
        conditions += _of_pool(app_id, pool_number)
    seconds = _epoch_s(table.c.began_at, postgres=sql.is_postgres(connection))
    step = ((seconds - int(period.since.timestamp())) // step_s).label("step")
    of = table.c.kind, table.c.code
    statement = select(step, *of, cast(func.sum(table.c.number), Integer))
    statement = statement.where(*conditions, table.c.kind.in_(list(kinds))).group_by(step, *of)
    rows = connection.execute(statement.order_by(step)).all()
    return [EventCount(step, sql.member(EventKind, kind), code, number) for step, kind, code, number in rows]


def _epoch_s(column: ColumnElement[datetime], *, postgres: bool) -> ColumnElement[int]:
    """Return the seconds since 1970 of an instant."""
    return cast(func.date_part("epoch", column) if postgres else func.strftime("%s", column), Integer)


def _in_period(table: Any, period: Period, period_s: int) -> list[ColumnElement[bool]]:
    began_at = table.c.began_at
    return [table.c.period_s == period_s, began_at >= period.since, began_at < period.until]


def _of_pool(app_id: str | None, pool_number: str | None) -> list[ColumnElement[bool]]:
    named = ((bind_counts.c.app_id, app_id), (bind_counts.c.pool_number, pool_number))
    return [column == value for column, value in named if value is not None]


def count_binds(connection: Connection, period: Period) -> list[BindCount]:
    """Count the events about binds of a period by application, pool, kind and code."""
    of = [bind_counts.c[name] for name in ("app_id", "pool_number", "kind", "code")]
    number = cast(func.sum(bind_counts.c.number), Integer).label("number")
    statement = select(*of, number).where(*_in_period(bind_counts, period, period.unit_s)).group_by(*of)
    return [
        sql.record(BindCount, row, kind=sql.member(EventKind, row.kind)) for row in connection.execute(statement)
    ]


def binds_counted_since(connection: Connection) -> datetime | None:
    """Return when the first day began that has counts by application and pool, or None if there is none."""
    first = select(bind_counts.c.began_at).where(bind_counts.c.period_s == DAY)
    return connection.execute(first.order_by(bind_counts.c.began_at).limit(1)).scalar()


def newest_examples(
    connection: Connection, period: Period, *, kind: EventKind, code: str, limit: int
) -> list[dict[str, Any]]:
    """Return the newest examples of one kind and code in a period."""
    of_code = select(tallies.c.examples).where(tallies.c.kind == kind, tallies.c.code == code)
    newest = of_code.where(*_in_period(tallies, period, min(period.unit_s, HOUR))).order_by(
        tallies.c.began_at.desc()
    )
    rows = connection.execute(newest.limit(limit)).scalars()
    return [example for examples in rows for example in examples][:limit]


@one_row(first_column)
def counted_to() -> Select[Any]:
    """Return up to when all committed events are counted, or None before the first run of the job."""
    return select(tally_marks.c.counted_to)


def delete_old(tx: Transaction) -> None:
    """Delete counts and levels that are too old to be displayed."""
    now = tx.instant()
    for period_s, retention in (*KEPT_FOR.items(), (DAY, DAYS_KEPT)):
        tx.connection.execute(
            delete(tallies).where(tallies.c.period_s == period_s, tallies.c.began_at < now - retention)
        )
    for period_s, retention in BINDS_KEPT_FOR.items():
        old = bind_counts.c.began_at < now - retention
        tx.connection.execute(delete(bind_counts).where(bind_counts.c.period_s == period_s, old))
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
