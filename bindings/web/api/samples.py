"""One sample of each value that the API returns: the examples of the OpenAPI document are encoded from them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bindings.domain import hold
from bindings.domain.access_log import AccessKind, AccessLogEntry
from bindings.domain.acts import Act
from bindings.domain.binding import (
    Binding,
    Certainty,
    Event,
    EventKind,
    Holder,
    Mode,
    Reason,
    RefusedBind,
    State,
    Trace,
    TraceHolder,
)
from bindings.domain.hold import HoldReason, PhoneHold
from bindings.domain.phone import Phone
from bindings.domain.serialization import fields
from bindings.monitoring.check import Check, Level

_REQUESTED_AT = datetime(2026, 11, 23, 14, 30, 0, 120_000, tzinfo=UTC)


def _after(seconds: float) -> datetime:
    return _REQUESTED_AT + timedelta(seconds=seconds)


BINDING = Binding(
    id="01993b1e-7c5a-7d52-9b6e-2f1c8a4d7e90",
    mode=Mode.AXB,
    phone_a=Phone("9188067701"),
    phone_b=Phone("9188067799"),
    pool_number="918806",
    app_id="4luaKsL2",
    scope="default",
    reference="order-42",
    idempotency_key="order-42/1",
    replaces=None,
    replaced_by=None,
    waits_for=None,
    expire_s=3600,
    max_expire_s=None,
    warn_s=None,
    bind_id="1002",
    middle_number_a="9188061024",
    middle_number_b="9188061024",
    state=State.ACTIVE,
    provider_status=None,
    reason=None,
    actor="key:rides",
    request_id="8c1f6c1e-order-42",
    requested_at=_REQUESTED_AT,
    send_by=_after(5),
    settle_by=_after(16),
    sent_at=_after(0.01),
    answered_at=_after(0.19),
    expires_at=_after(3600.01),
    provider_expires_at=None,
    held_until=_after(3636.19),
    unbind_requested_at=None,
    ended_at=None,
    version=2,
)
ACTIVE_BINDING = fields(BINDING) | {"counterpart": BINDING.phone_b, "caller_id": BINDING.middle_number_b}
IN_DOUBT = replace(
    BINDING,
    state=State.IN_DOUBT,
    reason=Reason.NO_CLEAR_ANSWER,
    bind_id=None,
    middle_number_a=None,
    middle_number_b=None,
    answered_at=None,
    expires_at=None,
)
UNBOUND = replace(BINDING, state=State.UNBOUND)
SUCCESSOR = replace(
    BINDING,
    id="01993b22-0f1e-7b04-8e5d-4c77a1b2d3f5",
    phone_b=Phone("9188067788"),
    idempotency_key="order-42/2",
    replaces=BINDING.id,
    bind_id="1003",
    middle_number_a="9188061025",
    middle_number_b="9188061025",
)
UNCLEAR_REPLACE = fields(replace(BINDING, replaced_by=SUCCESSOR.id, unbind_requested_at=_after(1200))) | {
    "predecessor_ended": False,
    "detail": "the provider has not confirmed the end of the binding to be replaced: its unbind is recorded and"
    " will be repeated; its successor was not sent",
}
UNBIND_ALL = {"requested": 1, "confirmed": 1, "unclear": 0, "bindings": [UNBOUND], "token": None, "more": False}
EVENT = Event(
    cursor="7412-118",
    binding_id=BINDING.id,
    sequence=2,
    kind=EventKind.ACTIVATED,
    at=_after(0.19),
    actor=BINDING.actor,
    request_id=BINDING.request_id,
    detail={"bind_id": BINDING.bind_id},
    reference=BINDING.reference,
    key_id="01993a02-6f1e-7b2d-9c44-2f8d1c7ab035",
)
_WITHOUT_BINDING = (
    *(EventKind.REFUSED, EventKind.HELD, EventKind.HOLD_ENDED, EventKind.PHONE_SEARCHED, EventKind.BUDGET_USED_UP),
    *(EventKind.POOL_LOW, EventKind.EXPORTED, EventKind.ADMINISTERED, EventKind.SEALED),
)
_DETAILS: dict[EventKind, dict[str, Any]] = {
    EventKind.EXPIRES_SOON: {"expires_at": _after(3600.01).isoformat()},
    EventKind.POOL_LOW: {
        "app_id": BINDING.app_id,
        "pool_number": BINDING.pool_number,
        "why": "share",
        "live": 45,
        "capacity": 50,
    },
    EventKind.ADMINISTERED: {"act": Act.KEY_CREATED},
    EventKind.SEALED: {"head": f"12:{'5d41402a' * 8}"},
}


def event_of(kind: EventKind) -> Event:
    """Return a sample of an event of this kind, with what its message carries."""
    event = replace(EVENT, kind=kind, detail=_DETAILS.get(kind, {}))
    return replace(event, binding_id=None, sequence=0, reference=None) if kind in _WITHOUT_BINDING else event


HOLDER = Holder(
    id=BINDING.id,
    actor=BINDING.actor,
    reference=BINDING.reference,
    mode=BINDING.mode,
    state=BINDING.state,
    held_until=BINDING.held_until,
    retry_after_s=3636,
    why="binding",
)
FOREIGN_HOLDER = replace(
    HOLDER, id=None, actor=None, reference=None, mode=None, state=None, retry_after_s=60, why="refused"
)
HOLD = PhoneHold(
    phone=BINDING.phone_a,
    why=HoldReason.ORPHAN,
    cause=hold.ORPHAN.cause,
    in_force=True,
    first_held_at=_after(0),
    held_until=BINDING.held_until,
    ends_by=hold.ORPHAN.ends_by,
    binding_id=None,
    actor=None,
    bind_id="2002",
    app_id=BINDING.app_id,
)
REFUSED_BIND = RefusedBind(
    id="01993b1e-8d11-7c0a-8a52-6f3d0b9e5c71",
    at=_after(60),
    code="phone-in-use",
    provider_status=None,
    mode=Mode.AXB,
    phone_a=BINDING.phone_a,
    phone_b=Phone("9188067702"),
    pool_number=BINDING.pool_number,
    app_id=BINDING.app_id,
    reference="order-43",
    actor=BINDING.actor,
    request_id="8c1f6c1e-order-43",
    holder=replace(HOLDER, retry_after_s=3577),
)
ACCESS_LOG_ENTRY = AccessLogEntry(
    at=_after(60),
    actor="key:eve",
    description="phones of a binding",
    reason="complaint 118",
    binding_id=BINDING.id,
    export_id=None,
    row_count=None,
    complete=True,
    request_id="8c1f6c1e-complaint-118",
    act=None,
    key_id="01993b1e-8d11-7c0a-8a52-6f3d0b9e5c72",
    kind=AccessKind.REVEAL,
    reference=BINDING.reference,
)
TRACE = Trace(holders=(TraceHolder(binding=BINDING, certainty=Certainty.CERTAIN),), near_misses=())
CHECK = Check(name="schema", level=Level.OK, seen="as this version needs", todo=None)
PHONES = {"phone_a": BINDING.phone_a.digits, "phone_b": BINDING.phone_b.digits, "mode": "AXB"}
