"""Comparison of rows with the events that inserted them, and the deletions that retention recorded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.sealing.acts import act_faults, subject_of
from bindings.sealing.encoding import TEXT_DIGEST, canonical, parse_any_json, plain_instant
from bindings.sealing.findings import UNREADABLE, Finding, Findings
from bindings.sealing.groups import Groups
from bindings.sealing.replay import replay
from bindings.sealing.seals import cursor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

WARNING_TOLERANCE_S = 1.0  # between two readings of the clock in one statement
_Record = tuple[int, dict[str, Any]]  # the number of the seal of an event (0: none), and the event
_ROW = b"r"  # in place of the number of the seal


class RowComparison:
    """Collects the events and rows, and compares them in `finish`. A context manager.

    Without rows, of exported events, only the events of each binding are compared with each other.
    `deleted_until` is the position up to which retention has recorded the deletion of events.
    """

    def __init__(self, findings: Findings, *, with_rows: bool) -> None:
        self.deleted_until: tuple[int, int] | None = None
        self._kept_from: str | None = None
        self._acts_since: str | None = None
        self._older_hold_end: tuple[int, int] | None = None
        self._incomplete: set[str] = set()
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
        if event["binding_id"] is not None:
            self._add(f"binding {event['binding_id']}", entry, seal)
        if event["kind"] in (EventKind.ADMINISTERED, EventKind.EXPORTED):
            self._note_act(event)
        if not self._with_rows:
            return
        subject = subject_of(event)
        if subject is not None:
            self._add(subject, entry, seal)
        self._add_erasure(event, seal)
        self._add_proofs(event, seal)

    def _add_erasure(self, event: Mapping[str, Any], seal: int | None) -> None:
        """Note the texts and holds that an erasure deletes, if the event is of one."""
        if event["kind"] != EventKind.ERASED:
            return
        erased = canonical({"erased": True} | _position(event))
        self._add(f"text {event['binding_id']}", erased, seal)
        for position in event["detail"].get("text_positions", ()):
            self._add(f"text {position}", erased, seal)
        for hold_id in event["detail"].get("hold_ids", ()):
            self._add(f"hold {hold_id}", erased, seal)

    def _add_proofs(self, event: Mapping[str, Any], seal: int | None) -> None:
        """Add what the event proves of holds, and of texts that are stored apart from it."""
        detail = event["detail"]
        for proof in detail.get("holds", ()):
            self._add(f"hold {proof['id']}", canonical(proof | _position(event)), seal)
        if event["kind"] == EventKind.HOLD_ENDED and "holds" not in detail:
            self._older_hold_end = event["tx"], event["position"]
        for name, value in detail.items():
            if isinstance(value, dict) and value.keys() == {TEXT_DIGEST}:
                proof = {"text": f"{event['position']} {name}", "facts": value[TEXT_DIGEST]}
                group = event["binding_id"] or event["position"]
                self._add(f"text {group}", canonical(proof | _position(event)), seal)

    def _add(self, key: str, record: bytes, seal: int | None) -> None:
        self._groups.add(key, b"%d " % (seal or 0) + record)

    def _note_act(self, event: Mapping[str, Any]) -> None:
        """Note since when acts are recorded, and what retention has recorded as deleted."""
        if self._acts_since is None:
            self._acts_since = plain_instant(event["at"])
        detail = event["detail"]
        if detail.get("act") == Act.RETENTION_APPLIED:
            kept_from = plain_instant(detail["kept_from"])
            self._kept_from = max(kept_from, self._kept_from or kept_from)
            if "gone_tx" in detail:
                mark = detail["gone_tx"], detail["gone_position"]
                self.deleted_until = max(mark, self.deleted_until or mark)

    def add_row(self, subject: str, row: Mapping[str, Any]) -> None:
        """Add a row in plain values; `group` is what it is compared with, if that is not its `id`."""
        self._groups.add(f"{subject} {row.get('group', row['id'])}", _ROW + canonical(dict(row)))

    def skip_missing(self, subject: str) -> None:
        """Accept that rows of a subject are missing: they could not be read."""
        self._incomplete.add(subject)

    def finish(self) -> None:
        """Compare every row with its events."""
        for key, records in self._groups.groups():
            subject, _, identity = key.partition(" ")
            rows = [parse_any_json(text[1:]) for text in records if text.startswith(_ROW)]
            history = [_parse(text) for text in records if not text.startswith(_ROW)]
            if rows or subject not in self._incomplete:
                self._compare(subject, identity, history, rows)

    def _compare(
        self,
        subject: str,
        identity: str,
        history: list[_Record],
        rows: list[dict[str, Any]],
    ) -> None:
        try:
            if subject == "text":
                self._compare_texts(history, rows)
                return
            row = rows[-1] if rows else None
            for message in self._faults(subject, [event for _, event in history], row):
                self._report(subject, identity, message, history)
        except UNREADABLE:
            self._report(subject, identity, "has a value that cannot be read", history)

    def _faults(
        self, subject: str, history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None
    ) -> Iterable[str]:
        match subject:
            case "binding":
                return self._binding_faults(history, row)
            case "hold":
                return self._hold_faults(history, row)
            case _:
                is_whole = self.deleted_until is None
                return act_faults(subject, history, row, self._acts_since, is_whole=is_whole)

    def _binding_faults(self, history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None) -> Iterable[str]:
        """Yield what contradicts in the events of a binding, in the order of the feed, and its row."""
        history = sorted(history, key=lambda event: event["sequence"])
        if not history:
            yield "has a row and no events"
            return
        if row is None and self.deleted_until is not None and history[0]["sequence"] > 1:
            return  # its first events are deleted; the seals say whether they may be
        try:
            replayed = replay(history)
        except ValueError as error:
            yield str(error)
            return
        if not self._with_rows:
            return
        if row is None:
            if not self._is_deletable(replayed):
                yield "has events and no row"
        elif row.get("unreadable"):
            yield "has a value that cannot be read, or a phone that is not the one by which it is found"
        else:
            yield from _row_faults(history, replayed, row)

    def _is_deletable(self, replayed: Mapping[str, Any]) -> bool:
        """Return whether retention has recorded that it deletes such a binding."""
        ends = [replayed.get("ended_at"), replayed.get("held_until")]
        return self._kept_from is not None and all(end is None or end < self._kept_from for end in ends)

    def _hold_faults(self, history: Sequence[dict[str, Any]], row: Mapping[str, Any] | None) -> Iterable[str]:
        """Yield what contradicts in the proofs of a hold and its row."""
        proofs = {event["facts"] for event in history if "facts" in event}
        if row is None:
            if not any("erased" in event for event in history) and not self._is_hold_deletable(history):
                yield "has an event and no row"
            return
        if not proofs and row["facts"] is not None:
            is_of_deleted_event = self.deleted_until is not None and row["created_at"] < (self._kept_from or "")
            if not is_of_deleted_event:
                yield "has a row and no event"
        elif proofs and proofs != {row["facts"]}:
            yield "differs from what its event proves"
        for name, expected in self._replay_hold(history).items():
            if row[name] != expected:
                yield f"has another {name} than its events"

    def _replay_hold(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the values by column, as far as the proofs of a hold determine them.

        An older version wrote no strikes into a proof, and ended holds without one.
        """
        values: dict[str, Any] = {}
        for proof in history:
            if "strikes" in proof:
                values = {name: proof[name] for name in ("held_until", "origin_id", "strikes")}
            elif "facts" in proof:
                values = {}
            else:
                values["held_until"] = proof["held_until"]
        if "held_until" in values:
            values["held_until"] = plain_instant(values["held_until"])
        is_later = self._older_hold_end is None or (history and _place(history[-1]) > self._older_hold_end)
        return values if is_later else {}

    def _is_hold_deletable(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether retention has recorded that it deletes such a hold."""
        ends = [plain_instant(proof["held_until"]) for proof in history]
        held_until = self._replay_hold(history).get("held_until", max(ends, default=""))
        return self._kept_from is not None and held_until < self._kept_from

    def _compare_texts(self, history: Sequence[_Record], rows: Iterable[Mapping[str, Any]]) -> None:
        """Compare the texts of a binding, or of an event without one, with the digests in their events."""
        is_erased = any("erased" in event for _, event in history)
        digests = {event["text"]: (seal, event) for seal, event in history if "text" in event}
        stored = {row["id"]: row["facts"] for row in rows}
        for identity in digests.keys() - stored.keys():
            if not is_erased:
                self._report("text", identity, "has an event and no row", [digests[identity]])
        for identity, facts in stored.items():
            if identity not in digests:
                if not self._is_of_deleted_event(identity):
                    self._report("text", identity, "has a row and no event", [])
            elif facts != digests[identity][1]["facts"]:
                self._report("text", identity, "differs from the digest in its event", [digests[identity]])

    def _is_of_deleted_event(self, text_id: str) -> bool:
        """Return whether retention has recorded the deletion of the event of a text: the text is deleted next."""
        return self.deleted_until is not None and int(text_id.partition(" ")[0]) <= self.deleted_until[1]

    def _report(self, subject: str, identity: str, message: str, history: Sequence[_Record]) -> None:
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


def _parse(record: bytes) -> _Record:
    seal, _, entry = record.partition(b" ")
    return int(seal), parse_any_json(entry)


def _place(event: Mapping[str, Any]) -> tuple[int, int]:
    return event["tx"], event["position"]


def _position(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"tx": event["tx"], "position": event["position"]}


def _row_faults(
    history: Sequence[Mapping[str, Any]], replayed: dict[str, Any], row: Mapping[str, Any]
) -> Iterable[str]:
    is_erased = any(event["kind"] == EventKind.ERASED for event in history)
    if row["change_tx"] not in (0, history[-1]["tx"]):
        yield "has another change_tx than its last event"
    if is_erased:
        replayed.pop("request_id", None)
    for name, expected in replayed.items():
        if row[name] != expected and not _is_close(name, row, expected):
            yield f"has another {name} than its events"
    if not is_erased:
        yield from _request_faults(history, row)


def _request_faults(history: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Iterable[str]:
    """Yield what contradicts the request of a binding."""
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
