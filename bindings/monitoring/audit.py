"""Verification of the sealed history: of the database, or of exported files. Changes nothing.

`bindings.sealing` compares; this module reads what is compared, in one snapshot and in memory that does not grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings.sealing.chain import Chain
from bindings.sealing.encoding import event_bytes
from bindings.sealing.findings import Finding, Findings
from bindings.sealing.rows import RowComparison
from bindings.sealing.seals import head_of
from bindings.store import seals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from bindings.sealing.keys import PublicKeys
    from bindings.sealing.seals import Seal
    from bindings.store.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The result of a verification: sound if it has no finding.

    `head` is the last seal, `N:HASH`; `events` are the events that were read, `unsealed` those after the last
    seal. `findings` are the first thousand of `finding_count`.
    """

    head: str | None
    sealed_at: datetime | None
    events: int
    unsealed: int
    finding_count: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Return whether nothing contradicts what was sealed."""
        return not self.finding_count


def verify_database(database: Database, keys: PublicKeys, heads: Mapping[int, str]) -> Verification:
    """Compare the recorded history with its seals. Reads every event; safe to repeat."""

    def query(connection: Connection) -> Iterator[Verification]:
        with seals.snapshot(connection):
            yield _verify(
                seals.list_all(connection),
                seals.list_events(connection),
                keys,
                heads,
                {"binding": seals.list_bindings(connection), "hold": seals.list_holds(connection)},
            )

    (verification,) = database.stream(query)
    return verification


def _verify(
    recorded: Iterable[Seal],
    events: Iterable[Mapping[str, Any]],
    keys: PublicKeys,
    heads: Mapping[int, str],
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
) -> Verification:
    """Compare events with seals, and rows by subject with events; without rows only the former."""
    findings = Findings()
    chain = Chain(recorded, keys, findings, heads)
    with RowComparison(findings, with_rows=bool(rows)) as comparison:
        for event in events:
            entry = event_bytes(event)
            seal = chain.add((event["tx"], event["position"]), entry)
            comparison.add_event(entry, event, seal)
        chain.finish()
        for subject, subject_rows in rows.items():
            for row in subject_rows:
                comparison.add_row(subject, row)
        comparison.finish()
    return Verification(
        head=head_of(chain.head),
        sealed_at=None if chain.head is None else chain.head.created_at,
        events=chain.events,
        unsealed=chain.unsealed,
        finding_count=findings.count,
        findings=tuple(findings.reported),
    )
