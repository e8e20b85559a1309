"""Comparison of rows with the events that made them: of the bindings and of the holds."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import EventKind
from bindings.sealing.encoding import canonical
from bindings.sealing.findings import Finding, Findings
from bindings.sealing.groups import Groups
from bindings.sealing.replay import replay
from bindings.sealing.seals import cursor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

WARNING_TOLERANCE_S = 1.0  # between two readings of the clock in one statement
TEXT_DIGEST = "text_sha256"  # in the detail of an event, in place of a text that is stored apart
_ROW = "row"


class RowComparison:
    """Collects the events and rows, and compares them in `finish`. A context manager.

    Without rows, of exported events, only the events of each binding are compared with each other.
    """

    def __init__(self, findings: Findings, *, with_rows: bool) -> None:
        self._findings = findings
        self._with_rows = with_rows
        self._groups = Groups()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._groups.close()

    def add_event(self, entry: bytes, event: Mapping[str, Any], seal: int | None) -> None:
        """Add an event with its canonical bytes and the number of the seal that has it."""
        place = b"%d " % (seal or 0)
        if event["binding_id"] is not None:
            self._groups.add(b"binding " + event["binding_id"].encode(), place + entry)
        if not self._with_rows:
            return
        position = _position(event)
        for proof in event["detail"].get("holds", ()):
            self._groups.add(b"hold " + proof["id"].encode(), place + canonical(proof | position))
        for name, value in event["detail"].items():
            if isinstance(value, dict) and value.keys() == {TEXT_DIGEST}:
                key = f"text {event['position']} {name}".encode()
                self._groups.add(key, place + canonical({"facts": value[TEXT_DIGEST]} | position))

    def add_row(self, subject: str, row: Mapping[str, Any]) -> None:
        """Add a row in plain values."""
        self._groups.add(f"{subject} {row['id']}".encode(), b"0 " + canonical({_ROW: dict(row)}))

    def finish(self) -> None:
        """Compare every row with its events."""
        for key, records in self._groups.groups():
            subject, _, identity = key.decode().partition(" ")
            row: dict[str, Any] | None = None
            history: list[tuple[int, dict[str, Any]]] = []
            for record in records:
                seal, _, text = record.partition(b" ")
                values = json.loads(text)
                if _ROW in values:
                    row = values[_ROW]
                else:
                    history.append((int(seal), values))
            for message in _FAULTS[subject]([event for _, event in history], row, with_rows=self._with_rows):
                self._report(subject, identity, message, history)

    def _report(
        self, subject: str, identity: str, message: str, history: Sequence[tuple[int, dict[str, Any]]]
    ) -> None:
        seals = [seal for seal, _ in history if seal]
        positions = [(event["tx"], event["position"]) for _, event in history]
        self._findings.add(
            Finding(
                subject=subject,
                message=message,
                first_seal=min(seals, default=None),
                last_seal=max(seals, default=None),
                first=cursor(min(positions)) if positions else None,
                last=cursor(max(positions)) if positions else None,
                id=identity,
            )
        )


def _position(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"tx": event["tx"], "position": event["position"]}


def _binding_faults(
    history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None, *, with_rows: bool
) -> Iterable[str]:
    """Yield what contradicts in the events of a binding, in the order of the feed, and its row."""
    if not history:
        yield "has a row and no events"
        return
    history = sorted(history, key=lambda event: event["sequence"])
    try:
        replayed = replay(history)
    except ValueError as error:
        yield str(error)
        return
    if not with_rows:
        return
    if row is None:
        yield "has events and no row"
    elif row.get("unreadable"):
        yield "has a phone that cannot be read, or is not the one by which it is found"
    else:
        yield from _row_faults(history, replayed, row)


def _row_faults(
    history: Sequence[Mapping[str, Any]], replayed: dict[str, Any], row: Mapping[str, Any]
) -> Iterable[str]:
    is_erased = any(event["kind"] == "erased" for event in history)
    if row["change_tx"] not in (0, history[-1]["tx"]):
        yield "has another change_tx than its last event"
    if is_erased:
        replayed.pop("request_id", None)
    for name, expected in replayed.items():
        if row[name] != expected and not _is_close(name, row, expected):
            yield f"has another {name} than its events"
    if not is_erased:
        yield from _asked_faults(history, row)


def _asked_faults(history: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Iterable[str]:
    """Yield what contradicts what was asked for."""
    facts = history[0]["detail"].get("facts")
    if facts is not None and row["facts"] != facts:
        yield "differs from what was asked for"
    if not row["has_fingerprint"]:
        yield "has another fingerprint than its request"
    freed = any(event["kind"] == EventKind.FAILED and event["detail"].get("key_freed") for event in history)
    allowed = {"freed_key"} if freed else {"idempotency_key", "duplicate_key"}
    if len(row["key_columns"]) > 1 or not allowed.issuperset(row["key_columns"]):
        yield "has its idempotency key in another column than its events say"


def _is_close(name: str, row: Mapping[str, Any], expected: Any) -> bool:
    """Return whether the instant of a warning differs only by the time between two readings of the clock."""
    if name != "warn_at" or row[name] is None or expected is None:
        return False
    difference = datetime.fromisoformat(row[name]) - datetime.fromisoformat(expected)
    return abs(difference.total_seconds()) < WARNING_TOLERANCE_S


def _hold_faults(
    history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None, *, with_rows: bool
) -> Iterable[str]:
    """Yield what contradicts in the proofs of a hold and its row. `with_rows` is always True."""
    del with_rows
    proofs = Counter(proof["facts"] for proof in history)
    if row is None:
        yield "has an event and no row"
    elif not proofs and row["facts"] is not None:
        yield "has a row and no event"
    elif proofs and set(proofs) != {row["facts"]}:
        yield "differs from what its event proves"


def _text_faults(
    history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None, *, with_rows: bool
) -> Iterable[str]:
    """Yield what contradicts in the digest of a text and its row, which may be deleted."""
    del with_rows
    if row is not None and [event["facts"] for event in history] != [row["facts"]]:
        yield "differs from the digest in its event"


_FAULTS = {"binding": _binding_faults, "hold": _hold_faults, "text": _text_faults}
