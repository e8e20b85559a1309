"""Comparison of rows that administrative acts and exports made: API keys, webhooks, exports, and the account.

Pure. An older version recorded no such events: what was made before the first of them is not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bindings.domain.acts import Act
from bindings.domain.binding import EventKind
from bindings.sealing.encoding import TEXT_DIGEST, plain_instant, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SUBJECTS = ("key", "webhook", "export", "account")
_COMPARED_COLUMNS: dict[str, tuple[str, ...]] = {
    "key": (
        *("name", "role", "prefix", "rate_limit", "created_at", "created_by", "expires_at", "hash_sha256"),
        *("revoked_at", "revoked_by"),
    ),
    "webhook": (
        *("url_sha256", "kinds", "created_at", "created_by", "old_secret_until", "disabled_at", "disabled_why"),
    ),
    "export": (
        *("began_at", "view", "filter", "format", "reason", "actor", "request_id", "key_id"),
        *("finished_at", "row_count", "sha256"),
    ),
    "account": (
        *("scan_owed_since", "tx_offset", "gone_tx", "gone_position", "kept_from"),
        *("phone_index_key", "phone_data_key", "phone_key_checks", "phones_sealed_at"),
    ),
}
_COLUMN_OF = {"index_key": "phone_index_key", "data_key": "phone_data_key"}  # of facts with another name
# What a row has when it is created, before an act says otherwise.
_INITIAL_VALUES: dict[str, dict[str, Any]] = {
    "key": {"revoked_at": None, "revoked_by": None},
    "webhook": {"old_secret_until": None, "disabled_at": None, "disabled_why": None},
    "export": {"finished_at": None, "row_count": None, "sha256": None},
    "account": dict.fromkeys(_COMPARED_COLUMNS["account"]) | {"tx_offset": 0},
}
_CREATING_ACTS = {"key": Act.KEY_CREATED, "webhook": Act.WEBHOOK_ADDED}
_VALUES_SET: dict[str, dict[str, Any]] = {
    Act.WEBHOOK_ENABLED: {"disabled_at": None, "disabled_why": None},
    Act.DATABASE_SCANNED: {"scan_owed_since": None},
    Act.DATABASE_SCAN_WAIVED: {"scan_owed_since": None},
    Act.PHONES_KEYS_CHANGED: {"phones_sealed_at": None},
}
# Columns that an act changes, and that are not determined if its detail does not have them.
_CHANGED_COLUMNS = {
    Act.PHONES_KEYS_CHANGED: ("phone_key_checks",),
    Act.PHONES_SEALED: ("phone_key_checks", "phones_sealed_at"),
}
_INSTANTS = frozenset(
    (
        *("created_at", "expires_at", "revoked_at", "old_secret_until", "disabled_at", "began_at", "finished_at"),
        *("scan_owed_since", "kept_from", "phones_sealed_at"),
    )
)


def subject_of(event: Mapping[str, Any]) -> str | None:
    """Return the subject and the id of the row that an event concerns, `SUBJECT ID`, or None."""
    detail = event["detail"]
    if event["kind"] == EventKind.EXPORTED:
        return f"export {detail['export_id']}"
    if event["kind"] != EventKind.ADMINISTERED:
        return None
    area = str(detail["act"]).partition(".")[0]
    if area in ("database", "retention", "phones"):
        return "account 1"
    return f"{area} {detail['id']}" if area in SUBJECTS else None


def act_faults(
    subject: str,
    history: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any] | None,
    recorded_since: str | None,
    *,
    is_whole: bool,
) -> Iterable[str]:
    """Yield what contradicts between the events of a row, in the order of the feed, and the row.

    Rows that were made before `recorded_since` (None: no act is recorded) may have no event. `is_whole` is False
    if retention has deleted events.
    """
    acts = {event["detail"].get("act") for event in history}
    if row is None:
        if Act.WEBHOOK_REMOVED not in acts:
            yield "has an event and no row"
        return
    made_at = row.get("created_at") or row.get("began_at")
    if not history and subject != "account":
        if recorded_since is not None and made_at is not None and made_at > recorded_since:
            yield "has a row and no event"
        return
    if not row.get("is_scope_of_bindings", True):
        yield "has another scope than its bindings"
    for name, expected in _replay(subject, history, is_whole=is_whole).items():
        if name in row and row[name] != expected:
            yield f"has another {name} than its events"


def _replay(subject: str, history: Sequence[Mapping[str, Any]], *, is_whole: bool) -> dict[str, Any]:
    """Return the values by column, as far as the events determine them."""
    has_creation = is_whole if subject == "account" else any(_creates(subject, event) for event in history[:1])
    values = dict(_INITIAL_VALUES[subject]) if has_creation else {}
    for event in history:
        detail = event["detail"]
        act = detail.get("act")
        if "began_at" in detail:
            values |= {name: event.get(name) for name in ("actor", "request_id", "key_id")}
        for name in _CHANGED_COLUMNS.get(act, ()):
            values.pop(name, None)
        facts = {_COLUMN_OF.get(name, name): value for name, value in detail.items()}
        if act == Act.RETENTION_APPLIED and "earlier" not in facts:
            del facts["kept_from"]
            if "gone_tx" not in facts:  # of an older version, which moved the limit without an event too
                values.pop("kept_from", None)
        values |= {name: _plain(name, facts[name]) for name in _COMPARED_COLUMNS[subject] if name in facts}
        values |= _VALUES_SET.get(act, {})
    return values


def _creates(subject: str, event: Mapping[str, Any]) -> bool:
    detail = event["detail"]
    return "began_at" in detail if subject == "export" else detail.get("act") == _CREATING_ACTS[subject]


def _plain(name: str, value: Any) -> Any:
    """Return a value of a detail as the row is read: an instant in its one text, a reason as its hash."""
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {TEXT_DIGEST}:
        return value[TEXT_DIGEST]
    if name == "reason":
        return sha256(value.encode())
    return plain_instant(value) if name in _INSTANTS else value
