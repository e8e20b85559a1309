"""Every call of the HTTP service: what it takes, what it may answer, and an example of each.

This is what the OpenAPI document tells beyond the schemas of `bodies` and `shapes`; `openapi` makes the document
of it. A test holds the calls to the routes of `api` and `ops`, another sends thousands of requests that the
document describes and forbids. How a call is answered does not stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.web import problems
from bindings.web.api import requests, responses

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bindings.errors import BindingsError

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
class ResponseDoc:
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
    summary: str
    answers: dict[int, ResponseDoc]
    problems: tuple[type[BindingsError], ...] = ()
    body: type[BaseModel] | None = None
    example: Any = None
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    open: bool = False
    tag: str = "bindings"
    needs_body: bool = True


ALWAYS: tuple[type[BindingsError], ...] = (problems.Malformed, problems.HeadTooLarge, errors.Busy)
AUTH_PROBLEMS: tuple[type[BindingsError], ...] = (
    *ALWAYS,
    problems.Unauthenticated,
    problems.Forbidden,
    problems.RateLimited,
)
WITH_BODY: tuple[type[BindingsError], ...] = (
    problems.RequestTimeout,
    problems.TooLarge,
    problems.UnsupportedMediaType,
    errors.InvalidRequest,
)
PROVIDER_PROBLEMS: tuple[type[BindingsError], ...] = (
    errors.ProviderRefused,
    errors.ProviderAccountRefused,
    errors.ProviderUnreachable,
)

_FOUND = ResponseDoc(told="What was found.", model=responses.Found, example={"data": [BINDING]})
_PAGE = ResponseDoc(told="A page.", model=responses.Bindings, example={"data": [BINDING], "next_cursor": None})
_ONE = ResponseDoc(told="The binding.", model=responses.Binding, example=BINDING)
_ASKED_PHONES = {"phone_a": "9188067701", "phone_b": "9188067799", "mode": "AXB"}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/v1/bindings"): Operation(
        name="bind",
        summary="Lend a middle number to two phones. With an Idempotency-Key it is safe to repeat for ever.",
        body=requests.Bind,
        example=_ASKED_PHONES | {"pool_number": "918806", "expire_s": 3600, "reference": "order-42"},
        headers=("Idempotency-Key",),
        answers={
            201: ResponseDoc(told="Bound.", model=responses.Binding, example=BINDING, headers=("Location",)),
            200: ResponseDoc(
                told="Bound by an earlier call with this key.",
                model=responses.Binding,
                example=BINDING,
                headers=("Location", "Idempotent-Replayed"),
            ),
            202: ResponseDoc(
                told="The outcome is not known yet; it is being resolved. Do not bind again.",
                model=responses.Binding,
                example=IN_DOUBT,
                headers=("Location", "Idempotent-Replayed"),
            ),
        },
        problems=(
            *AUTH_PROBLEMS,
            *WITH_BODY,
            errors.PhoneInUse,
            errors.IdempotencyMismatch,
            *errors.BIND_FAILURES,
        ),
    ),
    ("get", "/v1/bindings"): Operation(
        name="list",
        summary="List bindings, newest first, by filters that are no numbers.",
        query=requests.Filters,
        answers={200: _PAGE},
        problems=(*AUTH_PROBLEMS, errors.InvalidRequest),
    ),
    ("post", "/v1/bindings/search"): Operation(
        name="search",
        summary="List bindings, newest first, by any filter.",
        body=requests.Search,
        example={"phone": "9188067701", "state": "active"},
        answers={200: _PAGE},
        problems=(*AUTH_PROBLEMS, *WITH_BODY),
    ),
    ("post", "/v1/bindings/check"): Operation(
        name="check",
        summary="Say who would refuse such a bind now. Reserves nothing.",
        body=requests.Check,
        example=_ASKED_PHONES,
        answers={200: ResponseDoc(told="Who would.", model=responses.Holders, example={"data": [HOLDER]})},
        problems=(*AUTH_PROBLEMS, *WITH_BODY),
    ),
    ("get", "/v1/bindings/{binding_id}"): Operation(
        name="get",
        summary="Show one binding as recorded.",
        answers={200: _ONE},
        problems=(*AUTH_PROBLEMS, errors.InvalidRequest, errors.NotFound),
    ),
    ("get", "/v1/bindings/{binding_id}/events"): Operation(
        name="history",
        summary="Show every event of a binding, in order.",
        answers={
            200: ResponseDoc(
                told="All of them.", model=responses.History, example={"data": [EVENT], "next_cursor": None}
            )
        },
        problems=(*AUTH_PROBLEMS, errors.InvalidRequest, errors.NotFound),
    ),
    ("post", "/v1/bindings/{binding_id}/unbind"): Operation(
        name="unbind",
        summary="End a binding early. Safe to repeat; one that has ended is returned as it is.",
        body=requests.Unbind,
        needs_body=False,
        example={"reason": "trip ended"},
        answers={
            200: ResponseDoc(told="It is over.", model=responses.Binding, example=BINDING | {"state": "unbound"}),
            202: ResponseDoc(
                told="The provider was not clear; the wish is recorded and asked again.",
                model=responses.Binding,
                example=BINDING,
                headers=("Location",),
            ),
        },
        problems=(*AUTH_PROBLEMS, *WITH_BODY, *PROVIDER_PROBLEMS, errors.NotFound),
    ),
    ("post", "/v1/bindings/{binding_id}/reveal"): Operation(
        name="reveal",
        summary="Show one binding with full phones; who and why is recorded first.",
        body=requests.Reveal,
        example={"reason": "complaint 118"},
        answers={200: _ONE},
        problems=(*AUTH_PROBLEMS, *WITH_BODY, errors.NotFound),
    ),
    ("post", "/v1/lookup"): Operation(
        name="lookup",
        summary="Show the bindings that are active now: of a phone, or of a middle number and who calls it.",
        body=requests.Lookup,
        example={"middle_number": "9188061024", "party": "9188067701"},
        answers={200: _FOUND},
        problems=(*AUTH_PROBLEMS, *WITH_BODY),
    ),
    ("post", "/v1/trace"): Operation(
        name="trace",
        summary="Say who had a middle number at an instant, and what missed it narrowly.",
        body=requests.Trace,
        example={"middle_number": "9188061024", "at": "2026-11-23T14:32:00Z", "party": "9188067701"},
        answers={
            200: ResponseDoc(
                told="Who had it.",
                model=responses.TraceResponse,
                example={"holders": [{"binding": BINDING, "certainty": "certain"}], "near_misses": []},
            )
        },
        problems=(*AUTH_PROBLEMS, *WITH_BODY),
    ),
    ("get", "/v1/events"): Operation(
        name="events",
        summary="Read the change feed after a cursor. An event that commits late is never skipped.",
        query=requests.Feed,
        answers={
            200: ResponseDoc(
                told="A page.", model=responses.Events, example={"data": [EVENT], "next_cursor": "7412-118"}
            )
        },
        problems=(*AUTH_PROBLEMS, errors.InvalidRequest),
    ),
    ("get", "/livez"): Operation(
        name="livez",
        summary="Say that the process answers.",
        answers={200: ResponseDoc(told="It does.", model=responses.Alive, example={"status": "ok"})},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
    ("get", "/readyz"): Operation(
        name="readyz",
        summary="Say whether this replica should get traffic.",
        answers={
            200: ResponseDoc(told="Yes.", model=responses.Ready, example={"status": "ok", "checks": [CHECK]})
        },
        problems=(*ALWAYS, problems.NotReady),
        open=True,
        tag="operations",
    ),
    ("get", "/metrics"): Operation(
        name="metrics",
        summary="Show the metrics in Prometheus' text format.",
        answers={
            200: ResponseDoc(told="All of them.", media_type="text/plain", example="bindings_doubts_open 0.0\n")
        },
        problems=AUTH_PROBLEMS,
        tag="operations",
    ),
    ("get", "/openapi.json"): Operation(
        name="document",
        summary="Show this document.",
        answers={200: ResponseDoc(told="This document.", example={"openapi": "3.1.0"})},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
    ("get", "/docs"): Operation(
        name="docs",
        summary="Show this document as a page to try calls from.",
        answers={200: ResponseDoc(told="The page.", media_type="text/html", example="<!doctype html>")},
        problems=ALWAYS,
        open=True,
        tag="operations",
    ),
}
