"""Values as HTTP shows them: JSON, instants in RFC 3339 and UTC, phones masked unless the caller may see them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from bindings.domain.hold import visible_holds
from bindings.domain.phone import Phone
from bindings.web.responses import ApiResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bindings.domain.binding import Binding, RefusedBind, Trace, TraceHolder
    from bindings.web.auth import Principal


def mask_phone(value: Any) -> str:
    """Encode a phone, masked (for msgspec's `enc_hook`)."""
    if isinstance(value, Phone):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _show_phone(value: Any) -> str:
    if isinstance(value, Phone):
        return value.digits
    raise NotImplementedError(type(value).__name__)


_MASKED = msgspec.json.Encoder(enc_hook=mask_phone)
_IN_FULL = msgspec.json.Encoder(enc_hook=_show_phone)
_NO_FIELDS: Mapping[str, Any] = {}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> ApiResponse:
    """Return a response with the value as its body; phones in it are masked."""
    return ApiResponse(content=_MASKED.encode(value), status=status, headers=headers or {})


def binding_json(
    binding: Binding, principal: Principal, *, revealed: bool = False, extra: Mapping[str, Any] = _NO_FIELDS
) -> msgspec.Raw:
    """Encode a binding for the principal; phones in full if `revealed` or if the principal sent them.

    `extra` are further fields of the object.
    """
    encoder = _IN_FULL if revealed or principal.sees_phones(binding) else _MASKED
    return msgspec.Raw(encoder.encode({**principal.binding_fields(binding), **extra}))


def bindings_json(
    bindings: Iterable[Binding], principal: Principal, *, revealed: bool = False
) -> list[msgspec.Raw]:
    """Encode bindings for the principal."""
    return [binding_json(binding, principal, revealed=revealed) for binding in bindings]


def active_bindings_json(
    bindings: Iterable[Binding], principal: Principal, *, party: str | None, revealed: bool = False
) -> list[msgspec.Raw]:
    """Encode the bindings of a lookup for the principal.

    If phones are shown in full, with the phone to ring and the caller id to present when `party` calls.
    """
    return [_active_binding_json(binding, principal, party, revealed=revealed) for binding in bindings]


def _active_binding_json(
    binding: Binding, principal: Principal, party: str | None, *, revealed: bool
) -> msgspec.Raw:
    if party is None or not (revealed or principal.sees_phones(binding)):
        return binding_json(binding, principal, revealed=revealed)
    counterpart = binding.counterpart(party)
    route = {"counterpart": counterpart, "caller_id": binding.middle_number_for(counterpart)}
    return binding_json(binding, principal, revealed=True, extra=route)


def refused_binds_json(refused: Iterable[RefusedBind], principal: Principal) -> list[msgspec.Raw]:
    """Encode refused binds for the principal, without what it may not see of their holders."""
    encoded = []
    for bind in refused:
        holder = None if bind.holder is None else principal.redact_holder(bind.holder)
        encoder = _IN_FULL if principal.sees_phones(bind) else _MASKED
        encoded.append(msgspec.Raw(encoder.encode(replace(bind, holder=holder))))
    return encoded


def trace_json(trace: Trace, principal: Principal, *, party: Phone | None, revealed: bool) -> dict[str, Any]:
    """Return a trace for the principal, without the bindings that the principal may not view.

    `party` is the phone that the principal gave. The phones of holds stay masked: a reveal is of bindings.
    """
    return {
        "holders": _holders_json(trace.holders, principal, revealed=revealed),
        "near_misses": [
            {
                "binding": binding_json(miss.binding, principal, revealed=revealed),
                "relation": miss.relation,
                "at": miss.at,
                "offset_s": miss.offset_s,
            }
            for miss in trace.near_misses
            if principal.can_view(miss.binding)
        ],
        "other_holders": _holders_json(trace.other_holders, principal, revealed=revealed),
        "holds": visible_holds(trace.holds, principal.actor_filter, () if party is None else (party,)),
    }


def _holders_json(holders: Iterable[TraceHolder], principal: Principal, *, revealed: bool) -> list[dict[str, Any]]:
    return [
        {"binding": binding_json(holder.binding, principal, revealed=revealed), "certainty": holder.certainty}
        for holder in holders
        if principal.can_view(holder.binding)
    ]
