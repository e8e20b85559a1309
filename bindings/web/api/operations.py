"""How a route describes itself for the OpenAPI document, and the errors that groups of routes have in common.

Each handler carries an `Operation` as its option `operation`; `openapi` makes the document of them. A test
compares the operations with the routes, another sends thousands of requests that the document describes and
forbids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.web import problems

if TYPE_CHECKING:
    from bindings.errors import BindingsError
    from bindings.web.api.requests import RequestModel


@dataclass(frozen=True, slots=True)
class ResponseDoc:
    """A successful response. Without a `model`, `media_type` describes its content."""

    description: str
    model: type[Any] | None = None
    example: Any = None
    headers: tuple[str, ...] = ()
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A call: its request, its responses by status, and its errors. `open` is whether it needs no key."""

    name: str
    summary: str
    responses: dict[int, ResponseDoc]
    problems: tuple[type[BindingsError], ...] = ()
    body: type[RequestModel] | None = None
    example: Any = None
    query: type[RequestModel] | None = None
    headers: tuple[str, ...] = ()
    open: bool = False
    tag: str = "bindings"
    needs_body: bool = True


COMMON_PROBLEMS: tuple[type[BindingsError], ...] = (problems.Malformed, problems.HeadTooLarge, errors.Busy)
AUTH_PROBLEMS: tuple[type[BindingsError], ...] = (
    *COMMON_PROBLEMS,
    problems.Unauthenticated,
    problems.Forbidden,
    problems.RateLimited,
    problems.ConcurrencyLimited,
)
QUERY_PROBLEMS: tuple[type[BindingsError], ...] = (*AUTH_PROBLEMS, errors.InvalidRequest)
BODY_PROBLEMS: tuple[type[BindingsError], ...] = (
    *QUERY_PROBLEMS,
    problems.RequestTimeout,
    problems.TooLarge,
    problems.UnsupportedMediaType,
)
PHONE_PROBLEMS: tuple[type[BindingsError], ...] = (*BODY_PROBLEMS, problems.BudgetUsedUp)
PROVIDER_PROBLEMS: tuple[type[BindingsError], ...] = (
    errors.ProviderRefused,
    errors.ProviderAccountRefused,
    errors.ProviderUnreachable,
)
