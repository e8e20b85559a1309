"""The OpenAPI document: every call, every answer and problem it may give, each with an example.

The schemas are those of `shapes`; what stands here is what a schema cannot say. A test holds the paths to the
routes, another sends thousands of requests that the document describes and forbids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from bindings import errors
from bindings.binding import Holder, Mode, State
from bindings.provider import statuses
from bindings.web import problems, shapes

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bindings.errors import BindingsError

    Json = dict[str, Any]

ABOUT = """Lend a middle number to two people for a while, and know at every moment who has which.

Every error is a problem object with a stable `code`; `may_have_acted` and `safe_to_retry` say what happened and
whether the same call may be made again. An answer of 202 means that the provider gave no clear answer: the
binding is recorded, is being resolved, and must not be asked for again. Without any key the service listens on
its own host only. Phones are masked, except for whoever gave them."""

BINDING = {
    "id": "01993b1e-7c5a-7d52-9b6e-2f1c8a4d7e90",
    "mode": "AXB",
    "phone_a": "91******01",
    "phone_b": "91******99",
    "pool_number": "918806",
    "app_id": "4luaKsL2",
    "scope": "default",
    "reference": "order-42",
    "idempotency_key": "order-42/1",
    "expire_s": 3600,
    "warn_s": None,
    "bind_id": "1002",
    "middle_number_a": "9188061024",
    "middle_number_b": "9188061024",
    "state": "active",
    "provider_status": None,
    "reason": None,
    "actor": "key:rides",
    "request_id": "8c1f6c1e-order-42",
    "requested_at": "2026-11-23T14:30:00.120000Z",
    "send_by": "2026-11-23T14:30:05.120000Z",
    "settle_by": "2026-11-23T14:30:16.120000Z",
    "sent_at": "2026-11-23T14:30:00.130000Z",
    "answered_at": "2026-11-23T14:30:00.310000Z",
    "expires_at": "2026-11-23T15:30:00.130000Z",
    "held_until": "2026-11-23T15:30:36.310000Z",
    "unbind_requested_at": None,
    "ended_at": None,
    "version": 2,
}
IN_DOUBT = BINDING | {
    "state": "in_doubt",
    "reason": "no_clear_answer",
    "bind_id": None,
    "middle_number_a": None,
    "middle_number_b": None,
    "answered_at": None,
    "expires_at": None,
}
EVENT = {
    "cursor": "7412-118",
    "binding_id": BINDING["id"],
    "sequence": 2,
    "kind": "activated",
    "at": "2026-11-23T14:30:00.310000Z",
    "actor": "key:rides",
    "request_id": "8c1f6c1e-order-42",
    "detail": {"bind_id": "1002"},
}
HOLDER = {
    "id": BINDING["id"],
    "actor": "key:rides",
    "reference": "order-42",
    "mode": "AXB",
    "state": "active",
    "held_until": BINDING["held_until"],
    "retry_after_s": 3636,
    "why": "binding",
}
CHECK = {"name": "schema", "level": "ok", "seen": "as this version needs", "todo": None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer that is no problem. `model` None: `media_type` says what it is."""

    told: str
    model: type[BaseModel] | None = None
    example: Any = None
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One call. `open` is whether it needs no key."""

    name: str
    told: str
    answers: dict[int, Answer]
    problems: tuple[type[BindingsError], ...] = ()
    body: type[BaseModel] | None = None
    example: Any = None
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    open: bool = False
    tag: str = "bindings"
    needs_body: bool = True


ALWAYS: tuple[type[BindingsError], ...] = (problems.Malformed, problems.HeadTooLarge, errors.Busy)
ASKED: tuple[type[BindingsError], ...] = (
    *ALWAYS,
    problems.Unauthenticated,
    problems.Forbidden,
    problems.RateLimited,
)
WITH_BODY: tuple[type[BindingsError], ...] = (
    problems.TooSlow,
    problems.TooLarge,
    problems.UnsupportedMediaType,
    errors.InvalidRequest,
)
CALLED: tuple[type[BindingsError], ...] = (
    errors.ProviderRefused,
    errors.ProviderAccountRefused,
    errors.ProviderUnreachable,
)

_FOUND = Answer(told="What was found.", model=shapes.Found, example={"data": [BINDING]})
_PAGE = Answer(told="A page.", model=shapes.Bindings, example={"data": [BINDING], "next_cursor": None})
_ONE = Answer(told="The binding.", model=shapes.Binding, example=BINDING)
_ASKED_PHONES = {"phone_a": "9188067701", "phone_b": "9188067799", "mode": "AXB"}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/v1/bindings"): Operation(
        name="bind",
        told="Lend a middle number to two phones. With an Idempotency-Key it is safe to repeat for ever.",
        body=shapes.Bind,
        example=_ASKED_PHONES | {"pool_number": "918806", "expire_s": 3600, "reference": "order-42"},
        headers=("Idempotency-Key",),
        answers={
            201: Answer(told="Bound.", model=shapes.Binding, example=BINDING, headers=("Location",)),
            200: Answer(
                told="Bound by an earlier call with this key.",
                model=shapes.Binding,
                example=BINDING,
                headers=("Location", "Idempotent-Replayed"),
            ),
            202: Answer(
                told="The outcome is not known yet; it is being resolved. Do not bind again.",
                model=shapes.Binding,
                example=IN_DOUBT,
                headers=("Location", "Idempotent-Replayed"),
            ),
        },
        problems=(
            *ASKED,
            *WITH_BODY,
            *CALLED,
            errors.PhoneInUse,
            errors.PhoneInUseAtProvider,
            errors.IdempotencyMismatch,
            errors.NoMiddleNumber,
        ),
    ),
    ("get", "/v1/bindings"): Operation(
        name="list",
        told="List bindings, newest first, by filters that are no numbers.",
        query=shapes.Filters,
        answers={200: _PAGE},
        problems=(*ASKED, errors.InvalidRequest),
    ),
    ("post", "/v1/bindings/search"): Operation(
        name="search",
        told="List bindings, newest first, by any filter.",
        body=shapes.Search,
        example={"phone": "9188067701", "state": "active"},
        answers={200: _PAGE},
        problems=(*ASKED, *WITH_BODY),
    ),
    ("post", "/v1/bindings/check"): Operation(
        name="check",
        told="Say who would refuse such a bind now. Reserves nothing.",
        body=shapes.Check,
        example=_ASKED_PHONES,
        answers={200: Answer(told="Who would.", model=shapes.Holders, example={"data": [HOLDER]})},
        problems=(*ASKED, *WITH_BODY),
    ),
    ("get", "/v1/bindings/{binding_id}"): Operation(
        name="get",
        told="Show one binding as recorded.",
        answers={200: _ONE},
        problems=(*ASKED, errors.InvalidRequest, errors.NotFound),
    ),
    ("get", "/v1/bindings/{binding_id}/events"): Operation(
        name="history",
        told="Show every event of a binding, in order.",
        answers={
            200: Answer(told="All of them.", model=shapes.History, example={"data": [EVENT], "next_cursor": None})
        },
        problems=(*ASKED, errors.InvalidRequest, errors.NotFound),
    ),
    ("post", "/v1/bindings/{binding_id}/unbind"): Operation(
        name="unbind",
        told="End a binding early. Safe to repeat; one that has ended is returned as it is.",
        body=shapes.Unbind,
        needs_body=False,
        example={"reason": "trip ended"},
        answers={
            200: Answer(told="It is over.", model=shapes.Binding, example=BINDING | {"state": "unbound"}),
            202: Answer(
                told="The provider was not clear; the wish is recorded and asked again.",
                model=shapes.Binding,
                example=BINDING,
                headers=("Location",),
            ),
        },
        problems=(*ASKED, *WITH_BODY, *CALLED, errors.NotFound),
    ),
    ("post", "/v1/bindings/{binding_id}/reveal"): Operation(
        name="reveal",
        told="Show one binding with full phones; who and why is recorded first.",
        body=shapes.Reveal,
        example={"reason": "complaint 118"},
        answers={200: _ONE},
        problems=(*ASKED, *WITH_BODY, errors.NotFound),
    ),
    ("post", "/v1/lookup"): Operation(
        name="lookup",
        told="Show the bindings that are active now: of a phone, or of a middle number and who calls it.",
        body=shapes.Lookup,
        example={"middle_number": "9188061024", "party": "9188067701"},
        answers={200: _FOUND},
        problems=(*ASKED, *WITH_BODY),
    ),
    ("post", "/v1/trace"): Operation(
        name="trace",
        told="Say who had a middle number at an instant, and what missed it narrowly.",
        body=shapes.Trace,
        example={"middle_number": "9188061024", "at": "2026-11-23T14:32:00Z", "party": "9188067701"},
        answers={
            200: Answer(
                told="Who had it.",
                model=shapes.Traced,
                example={"holders": [{"binding": BINDING, "certainty": "certain"}], "near_misses": []},
            )
        },
        problems=(*ASKED, *WITH_BODY),
    ),
    ("get", "/v1/events"): Operation(
        name="events",
        told="Read the change feed after a cursor. An event that commits late is never skipped.",
        query=shapes.Feed,
        answers={
            200: Answer(told="A page.", model=shapes.Events, example={"data": [EVENT], "next_cursor": "7412-118"})
        },
        problems=(*ASKED, errors.InvalidRequest),
    ),
    ("get", "/livez"): Operation(
        name="livez",
        told="Say that the process answers.",
        answers={200: Answer(told="It does.", model=shapes.Alive, example={"status": "ok"})},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
    ("get", "/readyz"): Operation(
        name="readyz",
        told="Say whether this replica should get traffic.",
        answers={200: Answer(told="Yes.", model=shapes.Ready, example={"status": "ok", "checks": [CHECK]})},
        problems=(*ALWAYS, problems.NotReady),
        open=True,
        tag="operations",
    ),
    ("get", "/metrics"): Operation(
        name="metrics",
        told="Show the metrics in Prometheus' text format.",
        answers={200: Answer(told="All of them.", media_type="text/plain", example="bindings_doubts_open 0.0\n")},
        problems=ASKED,
        tag="operations",
    ),
    ("get", "/openapi.json"): Operation(
        name="document",
        told="Show this document.",
        answers={200: Answer(told="This document.", example={"openapi": "3.1.0"})},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
    ("get", "/docs"): Operation(
        name="docs",
        told="Show this document as a page to try calls from.",
        answers={200: Answer(told="The page.", media_type="text/html", example="<!doctype html>")},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
}

HEADERS: dict[str, Json] = {
    "Location": {"description": "Where the binding is.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "There where an earlier call with this key made it.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "Seconds after which another try makes sense.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-Request-ID": {"description": "Yours, or a new one; it stands in the log.", "schema": {"type": "string"}},
}
PARAMETERS: dict[str, Json] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key never binds twice. It belongs to one request of one application, for ever.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-~]+$"},
        "example": "order-42/1",
    },
    "binding_id": {
        "name": "binding_id",
        "in": "path",
        "required": True,
        "description": "Our id of the binding, a UUID.",
        "schema": {"type": "string"},
        "example": BINDING["id"],
    },
}


_SAMPLE_HOLDER = Holder(
    id=str(BINDING["id"]),
    actor="key:rides",
    reference="order-42",
    mode=Mode.AXB,
    state=State.ACTIVE,
    held_until=datetime(2026, 11, 23, 15, 30, 36, tzinfo=UTC),
    retry_after_s=3636,
    why="binding",
)
_FOREIGN_HOLDER = replace(
    _SAMPLE_HOLDER, id=None, actor=None, reference=None, mode=None, state=None, retry_after_s=60, why="refused"
)
_SAMPLE_STATUSES: dict[type[BindingsError], str] = {
    errors.ProviderRefused: statuses.PARAMETERS,
    errors.ProviderAccountRefused: statuses.ACCOUNT,
    errors.NoMiddleNumber: statuses.NO_NUMBER,
}


@cache
def document_bytes() -> bytes:
    """The document as it is served."""
    return json.dumps(document(), separators=(",", ":")).encode()


@cache
def document() -> Json:
    """The document."""
    paths: dict[str, Json] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bindings", "version": version("bindings"), "description": ABOUT},
        "tags": [
            {"name": "bindings", "description": "For backend apps and auditors."},
            {"name": "operations", "description": "For whoever runs the service."},
        ],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `bindings keys create`.",
                }
            },
        },
    }


def _schemas() -> Json:
    models: list[tuple[type[BaseModel], Any]] = [(shapes.Problem, "serialization")]
    for operation in OPERATIONS.values():
        models += [(operation.body, "validation")] if operation.body else []
        models += [(one.model, "serialization") for one in operation.answers.values() if one.model]
    _, found = models_json_schema(list(dict.fromkeys(models)), ref_template="#/components/schemas/{model}")
    shown: Json = _without_titles(found["$defs"])
    return shown


def _without_titles(schema: Any) -> Any:
    """Without pydantic's titles, which only repeat the names."""
    if isinstance(schema, dict):
        return {
            name: _without_titles(part)
            for name, part in schema.items()
            if not (name == "title" and isinstance(part, str))
        }
    return [_without_titles(part) for part in schema] if isinstance(schema, list) else schema


def _operation(path: str, operation: Operation) -> Json:
    shown: Json = {"operationId": operation.name, "summary": operation.told, "tags": [operation.tag]}
    parameters = [PARAMETERS[name] for name in operation.headers]
    if "{binding_id}" in path:
        parameters.append(PARAMETERS["binding_id"])
    if operation.query is not None:
        parameters += _query(operation.query)
    if parameters:
        shown["parameters"] = parameters
    if operation.body is not None:
        shown["requestBody"] = {
            "required": operation.needs_body,
            "content": {
                "application/json": {
                    "schema": _reference(operation.body),
                    "examples": {"usual": {"value": operation.example}},
                }
            },
        }
    if operation.open:
        shown["security"] = []
    answers = {str(status): _answer(one) for status, one in operation.answers.items()}
    return shown | {"responses": answers | _problems(operation.problems)}


def _query(model: type[BaseModel]) -> list[Json]:
    _, found = models_json_schema([(model, "validation")], ref_template="#/components/schemas/{model}")
    properties = _without_titles(found["$defs"][model.__name__])["properties"]
    return [{"name": name, "in": "query", "schema": _not_null(schema)} for name, schema in properties.items()]


def _not_null(schema: Json) -> Json:
    """A parameter is there or it is not: there is no null in an address."""
    either = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return either[0] if either else schema


def _answer(one: Answer) -> Json:
    content: Json = {"examples": {"usual": {"value": one.example}}}
    content["schema"] = _reference(one.model) if one.model else {"type": _TYPES.get(one.media_type, "object")}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in (*one.headers, "X-Request-ID")}
    return {"description": one.told, "headers": headers, "content": {one.media_type: content}}


_TYPES = {"text/plain": "string", "text/html": "string"}


def _problems(kinds: tuple[type[BindingsError], ...]) -> Json:
    """One answer for each status, with an example for each code that it may carry."""
    by_status: dict[int, list[type[BindingsError]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.http_status, []).append(kind)
    return {str(status): _problem(status, same) for status, same in sorted(by_status.items())}


def _problem(status: int, kinds: list[type[BindingsError]]) -> Json:
    headers = ["X-Request-ID"]
    if any("Retry-After" in problems.headers(_sample(kind)) for kind in kinds):
        headers.append("Retry-After")
    examples = {kind.code: {"value": _sample(kind).problem() | {"request_id": "8c1f6c1e"}} for kind in kinds}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            problems.MEDIA_TYPE: {"schema": _reference(shapes.Problem), "examples": examples},
        },
    }


def _sample(kind: type[BindingsError]) -> BindingsError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([errors.Fault("phone_b", "must differ from phone_a")])
    if issubclass(kind, errors.PhoneInUseAtProvider):
        return kind(holder=_FOREIGN_HOLDER, status=statuses.IN_USE)
    if issubclass(kind, errors.PhoneInUse):
        return kind(holder=_SAMPLE_HOLDER)
    if issubclass(kind, errors.ProviderRefused):
        status = _SAMPLE_STATUSES[kind]
        return kind(status=status, reason=statuses.meaning(status))
    return kind()


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
