"""Messages of webhooks: their types and bodies. How they are signed and sent is in `sender`.

A message holds no phone and no middle number, and nothing else that the receiver could not query.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bindings.domain.binding import EventKind
from bindings.domain.serialization import instant
from bindings.store.events import TRACEPARENT

if TYPE_CHECKING:
    from bindings.domain.binding import Event

_TYPES: dict[str, str] = {
    EventKind.HELD: "hold.began",
    EventKind.HOLD_ENDED: "hold.ended",
    EventKind.POOL_LOW: "pool.low",
    EventKind.EXPORTED: "audit.exported",
    EventKind.ADMINISTERED: "audit.administered",
    EventKind.SEALED: "log.sealed",
}
_POOL_FIELDS = ("app_id", "pool_number", "why", "live", "capacity")


def type_of(kind: str) -> str:
    """Return the `type` of the messages of a kind of event."""
    return _TYPES.get(kind, f"binding.{kind}")


def body_of(event: Event) -> bytes:
    """Return the message of an event, without phones and middle numbers.

    The same bytes in every attempt, unless the binding is deleted meanwhile: then `reference` is null.
    """
    data: dict[str, Any] = {
        "binding_id": event.binding_id,
        "reference": event.reference,
        "sequence": event.sequence,
        "kind": event.kind,
        "at": instant(event.at),
        "cursor": event.cursor,
    }
    if TRACEPARENT in event.detail:
        data[TRACEPARENT] = event.detail[TRACEPARENT]
    if event.kind is EventKind.POOL_LOW:
        data |= {name: event.detail[name] for name in _POOL_FIELDS if name in event.detail}
    if event.kind is EventKind.ADMINISTERED:
        data["act"] = event.detail["act"]
    if event.kind is EventKind.SEALED:
        data["head"] = event.detail["head"]
    if event.kind is EventKind.EXPIRES_SOON and "expires_at" in event.detail:  # not in those of earlier versions
        data["expires_at"] = instant(datetime.fromisoformat(event.detail["expires_at"]))
    return _json({"type": type_of(event.kind), "timestamp": data["at"], "data": data})


def of_test(at: datetime) -> bytes:
    """Return the message by which an operator tests a webhook."""
    return _json({"type": "test", "timestamp": instant(at), "data": {}})


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
