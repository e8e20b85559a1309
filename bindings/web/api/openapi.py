"""The OpenAPI document: every call, every response and problem it may give, with examples.

The calls are described beside their handlers (`operations`), the schemas are those of `requests` and `schemas`,
and the problems come from the errors themselves, each with a sample. Here is only what all calls have in common.
"""

from __future__ import annotations

import json
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.routes import HTTPRoute

from bindings import __version__, errors
from bindings.domain.binding import Reason
from bindings.provider import statuses
from bindings.web import problems
from bindings.web.api import ops_routes, routes, samples, schemas, webhook_messages
from bindings.web.api.serializers import mask_phone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.errors import BindingsError
    from bindings.web.api.operations import Operation, ResponseDoc
    from bindings.web.api.requests import RequestModel

    Json = dict[str, Any]

ABOUT = """Lend a middle number to two people for a limited time, and know at every moment who has which number.

Every error is a problem object with a stable `code`; `may_have_acted` and `safe_to_retry` say what happened and
whether the same call may be repeated. A response of 202 means that the provider gave no clear answer: the binding
is recorded and is being resolved; do not request it again. Phones are masked, except for the actor that sent them
and for a router."""

HEADERS: dict[str, Json] = {
    "Location": {"description": "The path of the binding.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "Present if an earlier call with this key created the binding.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "Seconds after which another attempt makes sense; after a 202, to ask for the binding.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-Request-ID": {
        "description": "The request id that you sent, or a new one; the log has it too.",
        "schema": {"type": "string"},
    },
}
PARAMETERS: dict[str, Json] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key never binds twice. It belongs to one request of one app_id and of the"
        " name of your API key, unless that was definitely refused or never sent.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!-~]+$"},
        "example": samples.BINDING.idempotency_key,
    },
    "binding_id": {
        "name": "binding_id",
        "in": "path",
        "required": True,
        "description": "The service's id of the binding, a UUID.",
        "schema": {"type": "string", "format": "uuid"},
        "example": samples.BINDING.id,
    },
}
_TYPES = {"text/plain": "string", "text/html": "string"}


@cache
def operations() -> dict[tuple[str, str], Operation]:
    """Return the operations of the API's handlers, by method (in lower case) and path."""
    return {
        (method.lower(), route.path_format): handler.opt["operation"]
        for router in (routes.router(), ops_routes.router())
        for route in router.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "operation" in handler.opt
        for method in handler.http_methods
    }


@cache
def document_bytes() -> bytes:
    """Return the document as it is served."""
    return msgspec.json.encode(_content(), enc_hook=mask_phone)


@cache
def document() -> Json:
    """Return the document."""
    parsed: Json = msgspec.json.decode(document_bytes())
    return parsed


def _content() -> Json:
    paths: dict[str, Json] = {}
    models: list[type[Any]] = [schemas.Problem, *webhook_messages.MODELS]
    for (method, path), operation in operations().items():
        paths.setdefault(path, {})[method] = _operation(path, operation)
        models += [operation.body] if operation.body else []
        models += [response.model for response in operation.responses.values() if response.model]
    return {
        "openapi": "3.1.0",
        "info": {"title": "bindings", "version": __version__, "description": ABOUT},
        "tags": [
            {"name": "bindings", "description": "For backend applications and auditors."},
            {"name": "operations", "description": "For operators of the service."},
            {"name": "webhooks", "description": "What receivers of events get."},
        ],
        "security": [{"key": []}],
        "paths": paths,
        "webhooks": webhook_messages.operations(),
        "components": {
            "schemas": _schemas(dict.fromkeys(models)),
            "headers": HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key created by `bindings keys create`.",
                }
            },
        },
    }


def _schemas(models: Iterable[type[Any]]) -> Json:
    """Return the schemas by name, with the codes of problems, and defaults in the descriptions only.

    A generator may take a field with a default for one that each request has.
    """
    result = schemas.components(models)
    for schema in result.values():
        for field in schema.get("properties", {}).values():
            default = field.pop("default", None)
            if default is not None:
                part = next(part for part in (field, *field.get("anyOf", ())) if "description" in part)
                part["description"] += f" If left out: {json.dumps(default)}."
    classes = (kind for module in (errors, problems) for kind in vars(module).values() if isinstance(kind, type))
    codes = {kind.code for kind in classes if issubclass(kind, errors.BindingsError)}
    result["Problem"]["properties"]["code"]["enum"] = sorted(codes - {errors.BindingsError.code})
    return result


def _operation(path: str, operation: Operation) -> Json:
    result: Json = {"operationId": operation.name, "summary": operation.summary, "tags": [operation.tag]}
    parameters = [PARAMETERS[name] for name in operation.headers]
    if "{binding_id}" in path:
        parameters.append(PARAMETERS["binding_id"])
    if operation.query is not None:
        parameters += _query_parameters(operation.query)
    if parameters:
        result["parameters"] = parameters
    if operation.body is not None:
        content = {
            "schema": schemas.reference(operation.body),
            "examples": {"usual": {"value": operation.example}},
        }
        result["requestBody"] = {"required": operation.needs_body, "content": {"application/json": content}}
    if operation.open:
        result["security"] = []
    responses = {str(status): _response(response) for status, response in operation.responses.items()}
    return result | {"responses": responses | _problem_responses(operation.problems)}


def _query_parameters(model: type[RequestModel]) -> list[Json]:
    properties = schemas.components([model])[model.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": _without_null(schema)} for name, schema in properties.items()]


def _without_null(schema: Json) -> Json:
    """Return the schema of a parameter: it is present or absent, and cannot be null in an address."""
    if "anyOf" not in schema:
        return schema
    choice: Json = next(choice for choice in schema["anyOf"] if choice.get("type") != "null")
    return choice if schema.get("default") is None else choice | {"default": schema["default"]}


def _response(response: ResponseDoc) -> Json:
    content: Json = {"examples": {"usual": {"value": response.example}}}
    model, media_type = response.model, response.media_type
    content["schema"] = schemas.reference(model) if model else {"type": _TYPES.get(media_type, "object")}
    return {
        "description": response.description,
        "headers": _header_references((*response.headers, "X-Request-ID")),
        "content": {media_type: content},
    }


def _header_references(names: tuple[str, ...]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem_responses(kinds: tuple[type[BindingsError], ...]) -> Json:
    """Return one response for each status, with an example for each code that it may carry."""
    by_status: dict[int, list[type[BindingsError]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.http_status, []).append(kind)
    return {str(status): _problem_response(status, kinds) for status, kinds in sorted(by_status.items())}


def _problem_response(status: int, kinds: list[type[BindingsError]]) -> Json:
    retry_later = any("Retry-After" in problems.headers(_sample_error(kind)) for kind in kinds)
    examples = {kind.code: {"value": _sample_error(kind).problem() | {"request_id": "8c1f6c1e"}} for kind in kinds}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _header_references(("X-Request-ID", "Retry-After") if retry_later else ("X-Request-ID",)),
        "content": {problems.MEDIA_TYPE: {"schema": schemas.reference(schemas.Problem), "examples": examples}},
    }


def _sample_error(kind: type[BindingsError]) -> BindingsError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([errors.FieldError("phone_b", "must differ from phone_a")])
    if issubclass(kind, errors.PhoneInUseAtProvider):
        return kind(holder=samples.FOREIGN_HOLDER, status=statuses.IN_USE)
    if issubclass(kind, errors.PhoneInUse):
        return kind(holder=samples.HOLDER)
    if issubclass(kind, errors.AlreadyReplaced):
        return kind(binding_id=samples.BINDING.id, successor_id=samples.SUCCESSOR.id)
    if issubclass(kind, errors.ProviderRefused):
        status = _sample_status(kind)
        return kind(status=status, reason=statuses.meaning(status))
    return kind()


def _sample_status(kind: type[errors.ProviderRefused]) -> str:
    """Return the first documented status that leads to this error."""
    return next(
        status.code
        for status in statuses.STATUSES
        if status.refusal is not None and errors.REASONS[Reason(status.refusal)].error is kind
    )
