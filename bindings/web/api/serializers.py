"""Values as HTTP shows them: JSON, instants in RFC 3339 and UTC, phones masked unless the caller may see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response

from bindings.domain.phone import Phone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bindings.domain.binding import Binding, Event, Trace
    from bindings.web.auth import Principal


def _masked(value: Any) -> str:
    if isinstance(value, Phone):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _in_full(value: Any) -> str:
    if isinstance(value, Phone):
        return value.digits
    raise NotImplementedError(type(value).__name__)


_MASKED = msgspec.json.Encoder(enc_hook=_masked)
_IN_FULL = msgspec.json.Encoder(enc_hook=_in_full)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """A value as the body of an answer; phones in it are masked."""
    return Response(
        _MASKED.encode(value), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def binding_json(found: Binding, who: Principal, *, revealed: bool = False) -> msgspec.Raw:
    """A binding as this caller sees it."""
    encoder = _IN_FULL if revealed or who.sees_phones(found) else _MASKED
    return msgspec.Raw(encoder.encode(found))


def bindings_json(found: Iterable[Binding], who: Principal, *, revealed: bool = False) -> list[msgspec.Raw]:
    """Bindings as this caller sees them."""
    return [binding_json(one, who, revealed=revealed) for one in found]


def redact_events(found: Iterable[Event], who: Principal) -> list[Event]:
    """Events as this caller sees them."""
    return [who.redact_event(one) for one in found]


def trace_json(found: Trace, who: Principal, *, revealed: bool) -> dict[str, Any]:
    """A trace as this caller sees it; what is not the caller's to see is left out."""
    return {
        "holders": [
            {"binding": binding_json(one.binding, who, revealed=revealed), "certainty": one.certainty}
            for one in found.holders
            if who.can_view(one.binding)
        ],
        "near_misses": [
            {
                "binding": binding_json(one.binding, who, revealed=revealed),
                "relation": one.relation,
                "at": one.at,
                "offset_s": one.offset_s,
            }
            for one in found.near_misses
            if who.can_view(one.binding)
        ],
    }
