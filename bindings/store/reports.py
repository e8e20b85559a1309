"""The reports of reconciliations: dated, kept, never changed.

A report has the result of one comparison with the provider's list, case by case, with ids and instants and without
phones. Triggers reject changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from uuid_utils import uuid7

from bindings.store import sql
from bindings.store.schema import reports

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.domain.binding import Caller
    from bindings.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One comparison: its start and end, its actor, the counts, and every case."""

    id: str
    began_at: datetime
    finished_at: datetime
    actor: str
    counts: dict[str, Any]
    cases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def read_everything(self) -> bool:
        """Return whether the run read its lists to the end and handled every row."""
        return not any(self.counts.get(count) for count in ("incomplete", "failures", "stopped"))

    @property
    def proves_absence(self) -> bool:
        """Return whether what the run did not find in its lists was not listed."""
        counts = "incomplete", "unproved", "stopped", "zone_misfit_s"
        return not any(self.counts.get(count) for count in counts)

    def has_suspicion(self, suspicion: str) -> bool:
        """Return whether the run had the suspicion; the reports of earlier versions have none."""
        return suspicion in self.counts.get("suspicions", ())


_COLUMNS = sql.columns(reports, Report)
_WITHOUT_CASES = tuple(column for column in _COLUMNS if column.name != "cases")


def store(
    tx: Transaction, caller: Caller, *, began_at: datetime, counts: dict[str, Any], cases: list[dict[str, Any]]
) -> str:
    """Store a report and return its id."""
    report_id = str(uuid7())
    tx.connection.execute(
        insert(reports).values(
            id=report_id,
            began_at=began_at,
            finished_at=tx.instant(),
            actor=caller.actor,
            counts=counts,
            cases=cases,
        )
    )
    return report_id


def find(connection: Connection, report_id: str) -> Report | None:
    """Return the report with this id, or None."""
    row = connection.execute(select(*_COLUMNS).where(reports.c.id == report_id)).one_or_none()
    return None if row is None else sql.record(Report, row)


def newest(
    connection: Connection, *, before: tuple[datetime, str] | None, limit: int, cases: bool = True
) -> list[Report]:
    """Return up to `limit` reports, newest first, from after the position `before` of that order.

    If `cases` is false, they are not read and the reports have none.
    """
    columns = _COLUMNS if cases else _WITHOUT_CASES
    statement = select(*columns).order_by(reports.c.began_at.desc(), reports.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(sql.keyset_before((reports.c.began_at, reports.c.id), before))
    return [sql.record(Report, row) for row in connection.execute(statement)]


def full_scan_completed_since(connection: Connection, *, since: datetime) -> bool:
    """Return True if a full scan that a restored database required started after `since` and is complete."""
    later = select(reports.c.counts).where(reports.c.began_at > since)
    return any(counts.get("made_good") for counts in connection.execute(later).scalars())
