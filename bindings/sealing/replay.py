"""Replay: what the events of a binding make of its row (I7), as far as they determine it.

Works on plain values: instants are texts as in `encoding.instant_text`. What is not determined, because an older
version wrote no such detail, is not in the result.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import EventKind, State
from bindings.sealing.encoding import instant_text, plain_instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATES: dict[str, State] = {  # which state a binding is in after an event of the kind
    EventKind.REQUESTED: State.PENDING,
    EventKind.ACTIVATED: State.ACTIVE,
    EventKind.ADOPTED: State.ACTIVE,
    EventKind.FAILED: State.FAILED,
    EventKind.IN_DOUBT: State.IN_DOUBT,
    EventKind.EXPIRED: State.EXPIRED,
    EventKind.UNBOUND: State.UNBOUND,
    EventKind.LAPSED: State.LAPSED,
}
_REQUEST_COLUMNS = (
    *("mode", "pool_number", "app_id", "replaces", "waits_for", "expire_s", "max_expire_s", "warn_s"),
    *("send_by", "settle_by", "held_until"),
)
_INITIALLY_NONE = (
    *("bind_id", "middle_number_a", "middle_number_b", "provider_status", "reason", "sent_at", "answered_at"),
    *("expires_at", "provider_expires_at", "replaced_by", "unbind_requested_at", "ended_at", "warn_at"),
)
_INSTANTS = frozenset(
    (
        *("requested_at", "send_by", "settle_by", "sent_at", "answered_at", "expires_at", "provider_expires_at"),
        *("held_until", "unbind_requested_at", "ended_at"),
    )
)
# Columns that an event sets to what its detail has under the same name, if it has it.
_DETAIL_COLUMNS = {
    EventKind.REQUESTED: ("requested_at",),
    EventKind.ACTIVATED: (
        *("bind_id", "middle_number_a", "middle_number_b", "sent_at", "answered_at", "expires_at"),
        *("provider_expires_at", "held_until"),
    ),
    EventKind.IN_DOUBT: ("reason", "sent_at"),
    EventKind.FAILED: ("reason", "held_until", "ended_at"),
    EventKind.UNBIND_REQUESTED: ("unbind_requested_at",),
    EventKind.UNBOUND: ("reason", "ended_at", "held_until"),
    EventKind.UNBIND_CONFIRMED: ("held_until", "provider_expires_at"),
    EventKind.DRIFTED: ("expires_at", "provider_expires_at", "held_until"),
    EventKind.EXTENDED: ("expires_at", "provider_expires_at"),
    EventKind.SHORTENED: ("expires_at", "provider_expires_at"),
    EventKind.REPLACED: ("replaced_by", "unbind_requested_at"),
    EventKind.CLEARED: ("requested_at", "send_by", "settle_by", "held_until"),
}
_DETAIL_COLUMNS[EventKind.ADOPTED] = _DETAIL_COLUMNS[EventKind.ACTIVATED]
# Columns that an event changes, and that are not determined if its detail does not have them.
_CHANGED_COLUMNS = {
    EventKind.FAILED: ("held_until", "ended_at"),
    EventKind.UNBIND_REQUESTED: ("unbind_requested_at",),
}


def replay(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values by column that the events of one binding, in order, give its row.

    Raises `ValueError`, whose text says why, if they are not the history of a binding.
    """
    row: dict[str, Any] = {}
    for number, event in enumerate(history, 1):
        if event["sequence"] != number:
            raise ValueError(f"has no event {number} (sequence)")
        _apply(row, event)
    return row | {"version": len(history)}


def _apply(row: dict[str, Any], event: Mapping[str, Any]) -> None:
    kind, detail = event["kind"], event["detail"]
    _require_order(row, kind)
    if kind == EventKind.REQUESTED:
        row |= dict.fromkeys(_INITIALLY_NONE) | {name: _plain(name, detail.get(name)) for name in _REQUEST_COLUMNS}
        row["request_id"] = event.get("request_id")
    for name in _CHANGED_COLUMNS.get(kind, ()):
        row.pop(name, None)
    row |= {name: _plain(name, detail[name]) for name in _DETAIL_COLUMNS.get(kind, ()) if name in detail}
    if kind in STATES:
        row["state"] = STATES[kind]
    _apply_rules(row, kind, detail)
    _apply_warning(row, kind)


def _require_order(row: Mapping[str, Any], kind: str) -> None:
    """Raise `ValueError` if an event of this kind cannot follow (I5)."""
    if (kind == EventKind.REQUESTED) == bool(row):
        raise ValueError("begins with another event than its request, or has two requests")
    to_state = STATES.get(kind)
    if to_state is not None and row and to_state not in row["state"].next_states:
        raise ValueError(f"is {row['state']} and has a later event {kind}")


def _apply_rules(row: dict[str, Any], kind: str, detail: Mapping[str, Any]) -> None:
    match kind:
        case EventKind.ACTIVATED:
            row |= {"provider_status": None, "reason": None}
        case EventKind.ADOPTED:
            row["reason"] = "adopted"
        case EventKind.IN_DOUBT:
            row["provider_status"] = detail.get("status")
        case EventKind.FAILED:
            row |= {"provider_status": detail.get("status"), "waits_for": None}
        case EventKind.EXPIRED:
            row["ended_at"] = row["expires_at"]
        case EventKind.LAPSED:
            row["ended_at"] = row["held_until"]
        case EventKind.CLEARED:
            row["waits_for"] = None
        case EventKind.REPLACED:
            if detail.get("unbind_requested") and "unbind_requested_at" not in detail:
                row.pop("unbind_requested_at", None)
        case _:
            pass


def _apply_warning(row: dict[str, Any], kind: str) -> None:
    """Set when the `expires_soon` event is due: it moves with the end, and is not due again once written."""
    is_due = row.get("warn_at") is not None
    if kind == EventKind.EXPIRES_SOON:
        row["warn_at"] = None
    elif kind in (EventKind.ACTIVATED, EventKind.ADOPTED, EventKind.EXTENDED) or (
        is_due and kind in (EventKind.SHORTENED, EventKind.DRIFTED)
    ):
        row["warn_at"] = _before(row["expires_at"], row["warn_s"])


def _before(end: str | None, seconds: int | None) -> str | None:
    if end is None or seconds is None:
        return None
    return instant_text(datetime.fromisoformat(end) - timedelta(seconds=seconds))


def _plain(name: str, value: Any) -> Any:
    """Return a value of a detail as it is compared: an instant in its one text."""
    return value if name not in _INSTANTS or value is None else plain_instant(value)
