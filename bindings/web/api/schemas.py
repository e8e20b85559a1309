"""The schemas of the OpenAPI document: made of the domain's dataclasses, and of the models of requests.

Responses are encoded directly from those dataclasses, so a field cannot be missing here. Added to them are only
the objects around them (pages, problems), and descriptions for clients. What a client may send is in `requests`.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from bindings.domain.access_log import AccessLogEntry  # noqa: TC001 -- msgspec reads the annotations
from bindings.domain.binding import Binding, Event, Holder, NearMiss, RefusedBind, TraceHolder
from bindings.domain.hold import PhoneHold
from bindings.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterable

    Json = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
ROUTE: Json = {
    "type": "object",
    "description": "How to connect a call from the phone that the lookup names, if you may see phones in full.",
    "properties": {
        "counterpart": {"type": "string", "description": "The phone of the other party: the one to ring."},
        "caller_id": {"type": "string", "description": "The middle number to present to the counterpart."},
    },
}


# Fields that have the id of a binding, an API key or an export.
UUIDS = frozenset(("id", "binding_id", "export_id", "holder_id", "key_id", "replaced_by", "replaces", "waits_for"))


def reference(model: type[Any]) -> Json:
    """Return a reference to the model's schema."""
    return {"$ref": REFERENCE.format(name=model.__name__)}


Ok = Annotated[str, Meta(extra_json_schema={"const": "ok"})]


class Bindings(Struct):
    """A page of bindings, newest first; `next_cursor` is null at the end."""

    data: list[Binding]
    next_cursor: str | None


class SearchResult(Struct):
    """A page of bindings, newest first, and holds if the search is for a number."""

    data: list[Binding]
    next_cursor: str | None
    holds: Annotated[
        list[PhoneHold],
        Meta(
            description="Of the phone that is searched for, in force or ended; without one, those in force of"
            " bindings with the middle number."
        ),
    ]


class RefusedBinds(Struct):
    """A page of refused binds, newest first; `next_cursor` is null at the end."""

    data: list[RefusedBind]
    next_cursor: str | None


class AccessLogEntries(Struct):
    """A page of the access log, newest first; `next_cursor` is null at the end."""

    data: list[AccessLogEntry]
    next_cursor: str | None
    searched_to: Annotated[
        Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})] | None,
        Meta(
            description="If one call looked at as many entries as it may before the page was full: the time of the"
            " oldest one. Older entries may match: go on with `next_cursor`. Otherwise null."
        ),
    ]


class ActiveBindings(Struct):
    """The bindings that are active now, newest first."""

    data: list[Binding]


class UnbindAllResult(Struct):
    """What a call to end all bindings of a phone, a middle number or a reference has done, or would do."""

    requested: Annotated[int, Meta(description="For how many an unbind is recorded; 0 in a dry run.")]
    confirmed: Annotated[int, Meta(description="Of these: how many the provider has confirmed.")]
    unclear: Annotated[int, Meta(description="Of these: how many have not ended yet; the unbind is retried.")]
    bindings: list[Binding]
    token: Annotated[str | None, Meta(description="Of a dry run: for a call that ends no other bindings.")]
    more: Annotated[bool, Meta(description="Whether there are others, past the 1000 of one call: repeat it.")]


class UnclearReplace(Struct):
    """The binding whose outcome is not known: the predecessor (the id of the address) or its successor."""

    predecessor_ended: Annotated[bool, Meta(description="Whether the end of the predecessor is confirmed.")]
    detail: Annotated[str, Meta(description="What happened, and what is the state now.")]


class Events(Struct):
    """Events in the order in which they became final; `next_cursor` is never null: use it for the next call."""

    data: list[Event]
    next_cursor: str


class History(Struct):
    """Every event of a binding, in order; there is no further page."""

    data: list[Event]
    next_cursor: None


class Holders(Struct):
    """The bindings and holds that would block the bind; empty if it would be accepted."""

    data: list[Holder]


class TraceResponse(Struct):
    """The bindings that had the middle number at the instant, and those that missed it narrowly."""

    holders: list[TraceHolder]
    near_misses: list[NearMiss]
    other_holders: Annotated[
        list[TraceHolder],
        Meta(description="If no holder has the party: those that had the number then, with other parties."),
    ]
    holds: Annotated[
        list[PhoneHold],
        Meta(
            description="Holds within the window: of the party, if there is one, and of bindings with the number"
            " that ended here and lived on at the provider."
        ),
    ]


class Problem(Struct, kw_only=True):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Meta(description="Stable; the same in Python and on the command line.")]
    request_id: str
    may_have_acted: Annotated[bool, Meta(description="Whether the provider may have acted.")]
    safe_to_retry: Annotated[bool, Meta(description="Whether the same call may be repeated unchanged.")]
    binding_id: str | None = None
    retry_after_s: int | None = None
    predecessor_ended: Annotated[
        bool | None,
        Meta(
            description="Of a replace that has begun: whether the predecessor has ended; if false, its end is not"
            " confirmed yet. Without this field nothing was changed."
        ),
    ] = None
    replaced_by: Annotated[str | None, Meta(description="Of already-replaced: the id of the successor.")] = None
    errors: list[FieldError] | None = None
    holder: Holder | None = None
    provider_status: str | None = None
    provider_reason: str | None = None
    checks: Annotated[list[dict[str, Any]] | None, Meta(description="Of /readyz only.")] = None


class Alive(Struct):
    """The process is alive."""

    status: Ok


class Ready(Struct):
    """The replica is ready; `checks` lists what was checked, for a key of a role that reads."""

    status: Ok
    checks: list[dict[str, Any]]


class Health(Struct):
    """The level of the service, and all checks: each has `name`, `level` (ok, warn, red), `message`, `action`.

    `failing`: binds fail; `degraded`: they work, but some fail or a check is red; `ok`: neither.
    """

    level: Annotated[str, Meta(extra_json_schema={"enum": ["ok", "degraded", "failing"]})]
    checks: list[dict[str, Any]]


MASKED = {"description": "Masked, except for the actor that sent it, and after a reveal."}
OWN_ONLY = {"description": "Masked, except for the actor that sent it."}
ACTOR = {"description": "The actor that requested the binding."}
# For clients, instead of the docstrings of the classes, and in addition to the types of their fields.
DESCRIPTIONS: dict[Any, tuple[str, dict[str, Json]]] = {
    Binding: (
        "A binding as recorded. `active` counts only before `expires_at` and if no unbind was requested.",
        {
            "phone_a": MASKED,
            "phone_b": MASKED,
            "bind_id": {"description": "The provider's id of the binding."},
            "middle_number_a": {"description": "The number that A sees and calls."},
            "middle_number_b": {"description": "The number that B sees and calls."},
            "actor": ACTOR,
            "version": {"description": "The number of its events; for the roles app and router 0."},
            "replaces": {"description": "The id of its predecessor, which a replace has ended for it."},
            "replaced_by": {"description": "The id of its newest successor, also if that one has failed."},
            "waits_for": {
                "description": "The predecessor whose end is not recorded yet: until then it is not sent."
            },
            "settle_by": {"description": "A pending binding past this is in doubt."},
            "max_expire_s": {"description": "Seconds that the provider was asked for; null: expire_s."},
            "expires_at": {"description": "The end that you were promised; extend moves it."},
            "provider_expires_at": {
                "description": "The earliest instant at which the provider may end it; null: expires_at."
            },
            "held_until": {"description": "The latest instant at which the provider may hold the phones."},
        },
    ),
    Event: (
        "One entry of the append-only history. It never carries a phone.",
        {
            "sequence": {
                "description": "Counts the events of a binding from 1 without a gap; for an app without reveals."
            },
            "actor": {"description": "For the role app `other`, if it is another caller."},
            "key_id": {
                "description": "The API key that acted: two keys may have one name. Null without one, and for the"
                " role app if it is another caller's."
            },
            "reference": {"description": "The binding's; null without a binding, and once it is deleted."},
        },
    ),
    Holder: (
        "What holds a requested phone. Without an `id` it is not our binding, or you may not see it.",
        {"actor": ACTOR},
    ),
    PhoneHold: (
        (
            "A phone that the provider holds, or held, for something other than a binding in force here. Of the"
            " holds of others an app sees only `phone`, `why` and `held_until`, while they are in force."
        ),
        {
            "phone": {"description": "Masked."},
            "why": {"description": "orphan, refused or late_success; a later version may write others."},
            "cause": {"description": "The same in words."},
            "in_force": {"description": "Whether it holds the phone now, by the database's clock."},
            "first_held_at": {"description": "When it was first recorded."},
            "ends_by": {"description": "What ends it; null if it is over."},
            "binding_id": {"description": "The binding recorded here that it comes from."},
            "actor": ACTOR,
            "bind_id": {"description": "The provider's id of what it holds the phone for, if it is known."},
        },
    ),
    RefusedBind: (
        "A bind that was refused before the provider was called; it created no binding. `Busy` is not recorded.",
        {
            "code": {"description": "The code of the error that the caller got."},
            "provider_status": {"description": "The provider's earlier status, if the account was refused."},
            "phone_a": OWN_ONLY,
            "phone_b": OWN_ONLY,
            "actor": {"description": "The actor that requested the bind."},
        },
    ),
    TraceHolder: ("A binding that had the middle number.", {}),
    NearMiss: (
        "A binding that ended shortly before, or began shortly after, the instant.",
        {"relation": {"enum": ["ended", "began"]}},
    ),
    FieldError: ("One field that is not valid. Its value is never repeated.", {}),
}


def components(models: Iterable[type[Any]]) -> dict[str, Json]:
    """Return the schemas of the models, and of all types that they refer to, by name."""
    _, schemas = msgspec.json.schema_components(models, schema_hook=_custom_type, ref_template=REFERENCE)
    for schema in schemas.values():
        del schema["title"]  # it repeats the name
        if "enum" in schema:
            schema["type"] = "string"
        if not schema.get("required", True):
            del schema["required"]  # no field is
        for name in UUIDS & schema.get("properties", {}).keys():
            field = schema["properties"][name]
            field.get("anyOf", [field])[0]["format"] = "uuid"
    for model, (description, fields) in DESCRIPTIONS.items():
        if (schema := schemas.get(model.__name__)) is not None:
            schema["description"] = description
            _complete_fields(model, schema["properties"], fields)
    if (unclear := schemas.get("UnclearReplace")) is not None:
        schemas["UnclearReplace"] = {"allOf": [reference(Binding), unclear]}
    if (active := schemas.get("ActiveBindings")) is not None:
        schemas["ActiveBinding"] = {"allOf": [reference(Binding), ROUTE]}
        active["properties"]["data"]["items"] = {"$ref": REFERENCE.format(name="ActiveBinding")}
    if (problem := schemas.get("Problem")) is not None:
        problem["additionalProperties"] = True
    return schemas


def _complete_fields(model: type[Any], properties: dict[str, Json], fields: dict[str, Json]) -> None:
    for name, annotation in get_type_hints(model).items() if is_dataclass(model) else ():
        if datetime in (annotation, *get_args(annotation)):
            schema = properties[name]
            schema.get("anyOf", [schema])[0]["format"] = "date-time"
    for name, addition in fields.items():
        properties[name] |= addition


def _custom_type(_: type[Any]) -> Json:
    """Return the schema of a type that msgspec does not know: a phone, which is encoded as text."""
    return {"type": "string"}
