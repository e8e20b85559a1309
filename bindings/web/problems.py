"""Problem objects (RFC 9457): the response to every request that fails.

Errors of the service carry their own status and code (`bindings.errors`); here are the errors that only HTTP has,
and the headers that go with each error. The texts of other libraries are never shown: they may repeat a phone
number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from bindings.domain.budget import Budget
from bindings.errors import BindingsError, FieldError, InvalidRequest, PhoneInUse

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2  # if the error itself has no time
FIELD_NAME = re.compile(r"[A-Za-z_.-]{1,64}")
REPLAYED_HEADER = "Idempotent-Replayed"
MAX_FIELDS = 64  # of a body, a form or a query: more than any call has
MAX_NAMED = 10  # names in one error; the others are counted
UNKNOWN_FIELD = "is not a field of this request"

Headers = dict[str, str]


class Malformed(BindingsError):
    """The request cannot be read: it is not HTTP, or its body is not JSON; nothing was done."""

    code = "malformed"
    http_status = 400


class Unauthenticated(BindingsError):
    """A key is needed: Authorization: Bearer <key>; nothing was done."""

    code = "unauthenticated"
    http_status = 401


class Forbidden(BindingsError):
    """The role of this key does not allow this call; nothing was done."""

    code = "forbidden"
    http_status = 403


class NoSuchPath(BindingsError):
    """There is no such path; /docs lists all calls."""

    code = "not-found"
    http_status = 404


class MethodNotAllowed(BindingsError):
    """This path does not support the method; nothing was done."""

    code = "method-not-allowed"
    http_status = 405


class RequestTimeout(BindingsError):
    """The request did not arrive in time; nothing was done."""

    code = "too-slow"
    http_status = 408
    safe_to_retry = True


class TooLarge(BindingsError):
    """The body is larger than 17 KiB; nothing was done."""

    code = "too-large"
    http_status = 413


class HeadTooLarge(BindingsError):
    """The path and the headers are larger than 32 KiB, or there are more than 100 headers; nothing was done."""

    code = "head-too-large"
    http_status = 431


class UnsupportedMediaType(BindingsError):
    """The body must be application/json in UTF-8 (of the console: a form), not compressed; nothing was done."""

    code = "unsupported-media-type"
    http_status = 415


class RateLimited(BindingsError):
    """This key has reached its rate limit, or this address sent too many invalid keys; nothing was done."""

    code = "rate-limited"
    http_status = 429
    safe_to_retry = True


class ConcurrencyLimited(BindingsError):
    """This caller has its share of a limit in flight; nothing was done. Try again when one of its calls has ended.

    `limit_name` is what is limited, in the plural: a label of the metric that counts these errors.
    """

    code = "concurrency-limited"
    http_status = 429
    safe_to_retry = True

    def __init__(
        self,
        limit_name: str = "requests",
        *,
        held: int | None = None,
        limit: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        message = None
        if held is not None:
            message = (
                f"this caller has {held} {limit_name} in flight in this process, its share of the limit of"
                f" {limit}; nothing was done; try again when one of them has ended"
            )
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit_name = limit_name


class BudgetUsedUp(BindingsError):
    """This key has used up its budget of questions about phones; this one was not answered. Try again later.

    `budget` is which one: a label of the metric that counts these errors.
    """

    code = "budget-used-up"
    http_status = 429
    safe_to_retry = True

    def __init__(
        self,
        budget: Budget = Budget.PHONE_SEARCHES,
        *,
        limit: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        message = None if limit is None else _USED_UP[budget].format(limit=limit, retry_after_s=retry_after_s)
        super().__init__(message, retry_after_s=retry_after_s)
        self.budget = budget


_USED_UP = {
    Budget.PHONE_SEARCHES: (
        "{limit} questions of this key with a full phone matched nothing within an hour, which is its budget; this"
        " question was not answered. Search by a middle number, a reference or an id, or"
        " try again in {retry_after_s} s (BINDINGS_PHONE_SEARCH_BUDGET)"
    ),
    Budget.HELD_ANSWERS: (
        "{limit} checks of this key were answered within an hour that another caller holds a phone, which is its"
        " budget; this check was not answered. Bind without a check, or try again in {retry_after_s} s"
        " (BINDINGS_CHECK_BUDGET)"
    ),
}


class NotReady(BindingsError):
    """This replica should not get traffic; `checks` names what fails, for a key that reads with details."""

    code = "not-ready"
    http_status = 503
    safe_to_retry = True


class InternalError(BindingsError):
    """An internal error of the service; what it had begun is recorded. Please report the request id."""

    code = "internal"
    http_status = 500
    may_have_acted = True


def body(error: BindingsError, request_id: str) -> bytes:
    """Return the problem object of an error as JSON."""
    return msgspec.json.encode(error.problem() | {"request_id": request_id})


def headers(error: BindingsError) -> Headers:
    """Return the headers that go with an error.

    Every 408, 409 for a phone, 429 and 503 has a Retry-After, unless its idempotency key is used up.
    """
    result: Headers = {}
    has_time = error.http_status in (408, 429, 503) or isinstance(error, PhoneInUse)
    key_used_up = error.binding_id is not None and not error.safe_to_retry
    if error.retry_after_s is not None or (has_time and not key_used_up):
        result["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    if error.replayed:
        result[REPLAYED_HEADER] = "true"
    if isinstance(error, Unauthenticated):
        result["WWW-Authenticate"] = "Bearer"
    return result


def safe_field_name(field: str) -> str:
    """Return the field name as sent, or "(unnamed)" if it does not look like one (it may be a phone number)."""
    return field if FIELD_NAME.fullmatch(field) else "(unnamed)"


def too_many_fields(place: str) -> InvalidRequest:
    """Return the error for a body or a query with more fields than any request has; they are not looked at."""
    return InvalidRequest.of_field(place, f"must have at most {MAX_FIELDS} fields")


def name_errors(names: Sequence[str], message: str) -> list[FieldError]:
    """Return an error for each of the first ten names, and one for all others: there may be dozens."""
    errors = [FieldError(safe_field_name(name), message) for name in names[:MAX_NAMED]]
    if len(names) > MAX_NAMED:
        errors.append(FieldError("(others)", f"{message}: {len(names) - MAX_NAMED} more names"))
    return errors
