"""The reports of reconciliations: dated, kept, never changed.

A report tells what one comparison with the provider's list found, case by case; it carries ids and instants,
no phones. Triggers refuse to change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, tuple_
from uuid_utils import uuid7

from bindings.store.column_types import Instant
from bindings.store.schema import reports

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One comparison: when, on whose behalf, the counts, and every case."""

    id: str
    began_at: datetime
    finished_at: datetime
    actor: str
    counts: dict[str, Any]
    cases: list[dict[str, Any]] = field(default_factory=list)


_COLUMNS = tuple(reports.c[name] for name in ("id", "began_at", "finished_at", "actor", "counts", "cases"))


def store(
    tx: Transaction, caller: Caller, *, began: datetime, counts: dict[str, Any], cases: list[dict[str, Any]]
) -> str:
    """Store a report and return its id."""
    report_id = str(uuid7())
    tx.connection.execute(
        insert(reports).values(
            id=report_id,
            began_at=began,
            finished_at=tx.instant(),
            actor=caller.actor,
            counts=counts,
            cases=cases,
        )
    )
    return report_id


def find(connection: Connection, report_id: str) -> Report | None:
    """The report with this id."""
    row = connection.execute(select(*_COLUMNS).where(reports.c.id == report_id)).one_or_none()
    return None if row is None else Report(**row._mapping)  # noqa: SLF001 -- the row's public way


def newest(
    connection: Connection, *, before: tuple[datetime, str] | None, limit: int, cases: bool = True
) -> list[Report]:
    """Up to `limit` reports, newest first, that come after the position `before`; without `cases` their counts."""
    shown = _COLUMNS if cases else _COLUMNS[:-1]
    statement = select(*shown).order_by(reports.c.began_at.desc(), reports.c.id.desc()).limit(limit)
    if before is not None:
        position = tuple_(reports.c.began_at, reports.c.id)
        statement = statement.where(position < tuple_(*before, types=(Instant(), reports.c.id.type)))
    return [Report(**row._mapping) for row in connection.execute(statement)]  # noqa: SLF001 -- the row's public way


def full_scan_completed_since(connection: Connection, *, since: datetime) -> bool:
    """Whether a full scan that a restored database owed has begun after `since` and come to its end."""
    later = select(reports.c.counts).where(reports.c.began_at > since)
    return any(counts.get("made_good") for counts in connection.execute(later).scalars())
