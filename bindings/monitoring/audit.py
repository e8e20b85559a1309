"""Verification of the sealed history: of the database, or of exported files. Changes nothing.

`bindings.sealing` compares; this module reads what is compared, in one snapshot and in memory that does not grow.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from bindings.errors import InvalidRequest
from bindings.sealing.chain import Chain
from bindings.sealing.encoding import event_bytes, parse_json
from bindings.sealing.findings import UNREADABLE, Finding, Findings
from bindings.sealing.rows import RowComparison
from bindings.sealing.seals import Seal, SealBody, cursor, head_of, is_restore
from bindings.store import protection, seals
from bindings.store.seals import UnreadableEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Connection

    from bindings.sealing.keys import PublicKeys
    from bindings.store.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The result of a verification: sound if it has no finding.

    `head` is the last seal, `N:HASH`; `events` are the events that were read, `unsealed` those after the last
    seal; `deleted_seals` are seals whose events retention has deleted. `findings` are the first thousand of
    `finding_count`.
    """

    head: str | None
    sealed_at: datetime | None
    events: int
    unsealed: int
    deleted_seals: int
    finding_count: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Return whether nothing contradicts what was sealed."""
        return not self.finding_count


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryHead:
    """The last seal, `N:HASH`: when it was made, and by which key. `key_id` is None if its body cannot be read."""

    head: str
    sealed_at: datetime
    key_id: str | None


def history_head(database: Database) -> HistoryHead | None:
    """Return the head of the sealed history, or None if it is not sealed. Its signature is not verified."""
    seal = database.read(seals.last)
    if seal is None:
        return None
    key_id = None
    with suppress(ValueError):
        key_id = SealBody.parse(seal.body).key_id
    return HistoryHead(head=seal.head, sealed_at=seal.created_at, key_id=key_id)


def verify_database(database: Database, keys: PublicKeys, heads: Mapping[int, str]) -> Verification:
    """Compare the recorded history with its seals, and the rows with their events.

    Reads every event and row in one snapshot; safe to repeat.
    """

    def query(connection: Connection) -> Iterator[Verification]:
        with seals.snapshot(connection):
            yield verify_connection(connection, keys, heads)

    (verification,) = database.stream(query)
    return verification


def verify_connection(connection: Connection, keys: PublicKeys, heads: Mapping[int, str]) -> Verification:
    """Do what `verify_database` does, in the transaction of a connection."""
    findings = Findings()
    for fault in protection.trigger_faults(connection):
        findings.add(Finding(subject="trigger", message=fault))
    if protection.is_maintained(connection):
        findings.add(Finding(subject="account", message="lets the triggers pass (maintenance_until)"))
    rows = {subject: read(connection) for subject, read in seals.ROWS.items()}
    chain = Chain(seals.list_all(connection), keys, findings, heads)
    return _verify(chain, findings, seals.list_events(connection), rows)


def verify_files(events: TextIO, seals_file: TextIO, keys: PublicKeys, heads: Mapping[int, str]) -> Verification:
    """Compare exported events with exported seals, and nothing else. Raises `InvalidRequest` for another file."""
    findings = Findings()
    chain = Chain(map(_to_seal, _lines(seals_file, "seals", _SEAL)), keys, findings, heads)
    return _verify(chain, findings, map(_with_none, _lines(events, "events", _EVENT)), {})


_SEAL = ("number", "to_tx", "to_position", "body", "signature", "created_at")
_EVENT = ("tx", "position", "sequence", "kind", "at", "actor", "detail")


def _lines(file: TextIO, option: str, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        try:
            values = parse_json(line)
            is_record = isinstance(values, dict) and values.keys() >= set(names)
        except (ValueError, RecursionError):
            is_record = False
        if not is_record:
            message = f"must be a file of `bindings export`: line {number} is no such record, or has a name twice"
            raise InvalidRequest.of_field(option, message)
        yield values


def _to_seal(values: dict[str, Any]) -> Seal:
    return Seal(**values | {"created_at": datetime.fromisoformat(values["created_at"])})


def _with_none(event: dict[str, Any]) -> dict[str, Any]:
    return {"binding_id": None} | event


def _verify(
    chain: Chain,
    findings: Findings,
    events: Iterable[Mapping[str, Any] | UnreadableEvent],
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
) -> Verification:
    """Compare events with a chain of seals, and rows by subject with events; without rows only the former."""
    with RowComparison(findings, with_rows=bool(rows)) as comparison:
        try:
            chain.begin()
            for event in events:
                _add_event(chain, comparison, findings, event)
            chain.finish(comparison.deleted_until)
        except UNREADABLE:
            message = "cannot be read: it was changed, and no seal or event after it was compared"
            number = 1 if chain.head is None else chain.head.number + 1
            findings.add(Finding(subject="seal", message=message, first_seal=number, last_seal=number))
        else:
            _add_rows(comparison, findings, rows)
            comparison.finish()
    return Verification(
        head=head_of(chain.head),
        sealed_at=None if chain.head is None else chain.head.created_at,
        events=chain.events,
        unsealed=chain.unsealed,
        deleted_seals=chain.deleted_seals,
        finding_count=findings.count,
        findings=tuple(findings.reported),
    )


def _add_rows(
    comparison: RowComparison, findings: Findings, rows: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    for subject, subject_rows in rows.items():
        try:
            for row in subject_rows:
                comparison.add_row(subject, row)
        except UNREADABLE:
            comparison.skip_missing(subject)
            message = "cannot be read: it was changed, and no row of its table after it was compared"
            findings.add(Finding(subject=subject, message=message))


def _add_event(
    chain: Chain, comparison: RowComparison, findings: Findings, event: Mapping[str, Any] | UnreadableEvent
) -> None:
    """Compare the next event of the feed. One that cannot be read is a finding, and is not what was sealed."""
    position, entry, is_of_restore = _position(event, chain.end), b"", False
    if not isinstance(event, UnreadableEvent):
        with suppress(*UNREADABLE):
            entry, is_of_restore = event_bytes(event), is_restore(event)
    seal = chain.add(position, entry, is_restore=is_of_restore)
    if not isinstance(event, UnreadableEvent) and entry:
        with suppress(*UNREADABLE):
            if is_of_restore and event["detail"].get("head") is not None:
                chain.accept_lost_head(event["detail"]["head"])
            comparison.add_event(entry, event, seal)
            return
    place = cursor(position)
    message = "cannot be read: it was changed"
    findings.add(
        Finding(subject="event", message=message, first_seal=seal, last_seal=seal, first=place, last=place)
    )


def _position(event: Mapping[str, Any] | UnreadableEvent, before: tuple[int, int]) -> tuple[int, int]:
    """Return the position of an event, or of the one before it if its own cannot be read."""
    if isinstance(event, UnreadableEvent):
        return event.position
    tx, position = event["tx"], event["position"]
    return (tx, position) if isinstance(tx, int) and isinstance(position, int) else before
