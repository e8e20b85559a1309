"""What a failure looks like over HTTP: a problem object (RFC 9457), whatever went wrong.

Errors of the service carry their own status and code (`bindings.errors`); here are those that only HTTP knows,
and the headers that go with each. No text of another library gets out: it may repeat a phone number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from bindings.errors import BindingsError, FieldError, InvalidRequest, PhoneInUse

if TYPE_CHECKING:
    from pydantic import ValidationError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2  # where an error does not know better

Headers = dict[str, str]


class Malformed(BindingsError):
    """The request cannot be read: it is no HTTP, or its body is no JSON; nothing was done."""

    code = "malformed"
    http_status = 400


class Unauthenticated(BindingsError):
    """A key is needed: Authorization: Bearer <key>; nothing was done."""

    code = "unauthenticated"
    http_status = 401


class Forbidden(BindingsError):
    """The role of this key does not allow that; nothing was done."""

    code = "forbidden"
    http_status = 403


class NoSuchPath(BindingsError):
    """There is nothing at this path; /docs lists what there is."""

    code = "not-found"
    http_status = 404


class MethodNotAllowed(BindingsError):
    """This path does not take that method; nothing was done."""

    code = "method-not-allowed"
    http_status = 405


class RequestTimeout(BindingsError):
    """The request did not arrive in time; nothing was done."""

    code = "too-slow"
    http_status = 408
    safe_to_retry = True


class TooLarge(BindingsError):
    """The body is larger than 64 KiB; nothing was done."""

    code = "too-large"
    http_status = 413


class HeadTooLarge(BindingsError):
    """The path and the headers are larger than 32 KiB; nothing was done."""

    code = "head-too-large"
    http_status = 431


class UnsupportedMediaType(BindingsError):
    """The body must be application/json in UTF-8 (of the console: a form), not compressed; nothing was done."""

    code = "unsupported-media-type"
    http_status = 415


class RateLimited(BindingsError):
    """This key has used up its requests for the moment; nothing was done."""

    code = "rate-limited"
    http_status = 429
    safe_to_retry = True


class NotReady(BindingsError):
    """This replica should get no traffic; `checks` says why."""

    code = "not-ready"
    http_status = 503
    safe_to_retry = True


class InternalError(BindingsError):
    """A fault of this service; what had begun is recorded. Please report it with the request id."""

    code = "internal"
    http_status = 500
    may_have_acted = True


def body(error: BindingsError, request_id: str) -> bytes:
    """The problem object."""
    return msgspec.json.encode(error.problem() | {"request_id": request_id})


def headers(error: BindingsError) -> Headers:
    """The headers that go with an error: every phone in use, and every 503, says when to try again."""
    given: Headers = {}
    if error.retry_after_s is not None or error.http_status in (408, 429, 503) or isinstance(error, PhoneInUse):
        given["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    if isinstance(error, Unauthenticated):
        given["WWW-Authenticate"] = "Bearer"
    return given


def invalid(error: ValidationError) -> InvalidRequest:
    """A body or query that its model refuses, as one fault for each field; no value is repeated."""
    return InvalidRequest([_fault(one) for one in error.errors(include_url=False, include_input=False)])


def _fault(found: Any) -> FieldError:
    field = safe_field_name(".".join(str(part) for part in found["loc"])) if found["loc"] else "body"
    return FieldError(field, _MESSAGES.get(found["type"]) or _validation_message(found))


def safe_field_name(field: str) -> str:
    """A field's name as it was sent, unless it may be something else: then only that it was no name."""
    return field if NAME.fullmatch(field) else "(unnamed)"


NAME = re.compile(r"[A-Za-z_.-]{1,64}")


def _validation_message(found: Any) -> str:
    """The text of a check of `bindings.validation`, which names no value; else nothing but that it is wrong."""
    return str(found["ctx"]["error"]) if found["type"] == "value_error" else "is not valid"


NO_FIELD = "is not a field of this request"
_MESSAGES = {
    "missing": "is needed",
    "extra_forbidden": NO_FIELD,
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "string_unicode": "must be valid Unicode text",
}
