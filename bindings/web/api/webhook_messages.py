"""The webhooks of the OpenAPI document: for each kind of event the message that a receiver gets.

The messages are made in `bindings.webhooks.messages`; here are their schemas.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from bindings.domain.binding import EventKind
from bindings.store.webhooks import ONLY_BY_NAME
from bindings.web.api import samples, schemas
from bindings.webhooks import messages

if TYPE_CHECKING:
    Json = dict[str, Any]


InstantText = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]


class WebhookData(Struct, kw_only=True):
    """The event of a message; it has no phone and no middle number."""

    binding_id: Annotated[str | None, Meta(description="Null for an event that belongs to no binding.")]
    reference: Annotated[
        str | None, Meta(description="That of the binding when the message is sent; null once it is deleted.")
    ]
    sequence: Annotated[int, Meta(description="Counts the events of a binding from 1.")]
    kind: Annotated[EventKind, Meta(description="The kind of the event.")]
    at: InstantText
    cursor: Annotated[str, Meta(description="Its position in the change feed.")]


class ExpiresSoonData(WebhookData, kw_only=True):
    """The event of a binding whose end is near."""

    expires_at: Annotated[
        InstantText | UnsetType, Meta(description="The announced end; events of earlier versions have none.")
    ] = UNSET


class PoolLowData(WebhookData, kw_only=True):
    """The event of a pool that has few middle numbers left, or none."""

    app_id: str
    pool_number: str
    cause: Annotated[
        str,
        Meta(
            description="share: it is nearly full. no_number: the provider had none left.",
            extra_json_schema={"enum": ["share", "no_number"]},
        ),
    ] = field(name="why")
    live: Annotated[int | UnsetType, Meta(description="How many bindings it has, if that is known.")] = UNSET
    capacity: Annotated[int | UnsetType, Meta(description="How many it may have, if that is known.")] = UNSET


class AdministeredData(WebhookData, kw_only=True):
    """The event of an administrative act."""

    act: Annotated[str, Meta(description="The act, such as key.created; a later version may write others.")]


class SealedData(WebhookData, kw_only=True):
    """The event of new seals of the history."""

    head: Annotated[str, Meta(description="The number and the hash of the last seal, N:HASH.")]


_DATA: dict[EventKind, type[WebhookData]] = {
    EventKind.EXPIRES_SOON: ExpiresSoonData,
    EventKind.POOL_LOW: PoolLowData,
    EventKind.ADMINISTERED: AdministeredData,
    EventKind.SEALED: SealedData,
}
MODELS: tuple[type[WebhookData], ...] = (WebhookData, *_DATA.values())
_HEADERS = {
    "webhook-id": "The id of the delivery, the same for each attempt.",
    "webhook-timestamp": "When this attempt was signed, in seconds since 1970.",
    "webhook-signature": "`v1,` and the signature (Standard Webhooks); two after a rotation of the secret.",
}


def operations() -> dict[str, Json]:
    """Return the webhooks by the type of their messages."""
    return {messages.type_of(kind): {"post": _operation(kind)} for kind in EventKind}


def _operation(kind: EventKind) -> Json:
    by_name = " Sent only to a webhook that names this kind." if kind in ONLY_BY_NAME else ""
    return {
        "operationId": f"webhook_{kind}",
        "summary": f"Receive an event of the kind {kind}.{by_name}",
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _message(kind),
                    "examples": {"usual": {"value": msgspec.Raw(messages.body_of(samples.event_of(kind)))}},
                }
            },
        },
        "responses": {
            "2XX": {"description": "The message is stored. Every other answer is followed by another attempt."},
            "410": {"description": "The receiver is gone: the webhook is disabled."},
        },
    }


def _message(kind: EventKind) -> Json:
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": messages.type_of(kind)},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": schemas.reference(_DATA.get(kind, WebhookData)),
        },
    }
