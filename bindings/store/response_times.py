"""Samples of binds, to estimate how long the provider took to answer. Nothing here writes.

A sample is read at some instants of a period: the newest binds before each, by the index over `requested_at`. So
its cost does not depend on the number of binds in the period.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Float, String, and_, bindparam, case, func, null, select, true, union_all

from bindings.store import sql
from bindings.store.column_types import Instant
from bindings.store.schema import bindings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Select

_READ = ("requested_at", "sent_at", "answered_at", "settle_by", "app_id", "pool_number")


class SampledBind(NamedTuple):
    """A bind of a sample: whether it is of the application and pool, and after how many seconds it was answered.

    `seconds` is None if the provider has not accepted it, or if a scan has adopted it.
    """

    matches: bool
    seconds: float | None


def sample(
    connection: Connection,
    *,
    since: datetime,
    before: Sequence[datetime],
    limit: int,
    app_id: str | None,
    pool_number: str | None,
) -> list[SampledBind]:
    """Return the newest `limit` binds that were requested before each instant, and not before `since`."""
    named = {"app_id": app_id, "pool_number": pool_number}
    names = tuple(name for name, value in named.items() if value is not None)
    statement = _sample(sql.is_postgres(connection), len(before), limit, names)
    instants = {f"before_{index}": instant for index, instant in enumerate(before)}
    rows = connection.execute(statement, {"since": since} | instants | named).all()
    return [SampledBind(bool(matches), seconds) for matches, seconds in rows]


@cache
def _sample(postgres: bool, instants: int, limit: int, names: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    """Build the statement; `names` are those of the columns that must have a value."""
    column, most = bindings.c, sql.literal_number(limit)
    newest = (
        select(
            select(*(column[name] for name in _READ))
            .where(
                column.requested_at >= bindparam("since", type_=Instant),
                column.requested_at < bindparam(f"before_{index}", type_=Instant),
            )
            .order_by(column.requested_at.desc(), column.id.desc())
            .limit(most)
            .subquery()
        )
        for index in range(instants)
    )
    binds = union_all(*newest).subquery("binds").c
    # Of an adopted binding `answered_at`, after `settle_by`, is when a scan saw it.
    is_answered = and_(binds.sent_at.is_not(None), binds.answered_at < binds.settle_by)
    seconds = _seconds(binds.answered_at, postgres=postgres) - _seconds(binds.sent_at, postgres=postgres)
    matches = and_(true(), *(binds[name] == bindparam(name, type_=String) for name in names))
    return select(matches, case((is_answered, seconds), else_=null()))


def _seconds(column: ColumnElement[datetime], *, postgres: bool) -> ColumnElement[float]:
    """Return an instant as seconds since the epoch of the database."""
    if postgres:
        return func.date_part("epoch", column, type_=Float)
    return func.julianday(column, type_=Float) * 86_400
