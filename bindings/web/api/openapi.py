"""The OpenAPI document, made of `operations`: every call, every answer and problem it may give, with examples.

Schemas come from the models of `bodies` and `shapes`, problems from the errors themselves, each with a sample.
What is told of one call stands in `operations`; here is only what is told of all, and how the document is put
together.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from bindings import errors
from bindings.domain.binding import Holder, Mode, Reason, State
from bindings.provider import statuses
from bindings.web import problems
from bindings.web.api import responses
from bindings.web.api.operations import BINDING, OPERATIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bindings.errors import BindingsError
    from bindings.web.api.operations import Operation, ResponseDoc

    Json = dict[str, Any]

ABOUT = """Lend a middle number to two people for a while, and know at every moment who has which.

Every error is a problem object with a stable `code`; `may_have_acted` and `safe_to_retry` say what happened and
whether the same call may be made again. An answer of 202 means that the provider gave no clear answer: the
binding is recorded, is being resolved, and must not be asked for again. Without any key the service listens on
its own host only. Phones are masked, except for whoever gave them."""

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


def _sample_status(kind: type[errors.ProviderRefused]) -> str:
    """Return the first documented status that leads to this error."""
    return next(
        status.code
        for status in statuses.STATUSES
        if status.refusal is not None and errors.REASONS[Reason(status.refusal)].error is kind
    )


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
    models: list[tuple[type[BaseModel], Any]] = [(responses.Problem, "serialization")]
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
    shown: Json = {"operationId": operation.name, "summary": operation.summary, "tags": [operation.tag]}
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


def _answer(one: ResponseDoc) -> Json:
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
            problems.MEDIA_TYPE: {"schema": _reference(responses.Problem), "examples": examples},
        },
    }


def _sample(kind: type[BindingsError]) -> BindingsError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([errors.FieldError("phone_b", "must differ from phone_a")])
    if issubclass(kind, errors.PhoneInUseAtProvider):
        return kind(holder=_FOREIGN_HOLDER, status=statuses.IN_USE)
    if issubclass(kind, errors.PhoneInUse):
        return kind(holder=_SAMPLE_HOLDER)
    if issubclass(kind, errors.ProviderRefused):
        status = _sample_status(kind)
        return kind(status=status, reason=statuses.meaning(status))
    return kind()


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
