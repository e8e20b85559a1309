"""The calls under /v1 that read: one binding, lookups, searches, traces, and the access log.

Each names the permissions that it needs, and carries its description for the OpenAPI document. A middle number or
a phone never stands in an address: a call that has one is a POST. Questions with a phone are recorded, and so are
phones that are shown in full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.domain import serialization
from bindings.domain.hold import visible_holds
from bindings.domain.phone import Phone
from bindings.domain.roles import Permission
from bindings.service import BindingService
from bindings.web.api import requests, samples, schemas
from bindings.web.api.api_request import BINDING, OWN_OR_ALL, ApiRequest, record_reveal
from bindings.web.api.operations import BODY_PROBLEMS, PHONE_PROBLEMS, QUERY_PROBLEMS, Operation, ResponseDoc
from bindings.web.api.serializers import (
    active_bindings_json,
    binding_json,
    bindings_json,
    json_response,
    refused_binds_json,
    trace_json,
)
from bindings.web.phone_questions import record_question
from bindings.web.responses import ApiResponse  # noqa: TC001 -- the framework reads the annotations

if TYPE_CHECKING:
    from bindings.domain.binding import Binding, Holder, Page, RefusedBind
    from bindings.domain.hold import PhoneHold
    from bindings.web.auth import Principal
    from bindings.web.phone_questions import HeldAnswers


_PAGE = ResponseDoc("A page of bindings.", schemas.Bindings, {"data": [samples.BINDING], "next_cursor": None})


@post(
    "/bindings/check",
    status_code=200,
    permissions=(Permission.BIND,),
    operation=Operation(
        name="check",
        summary="Show what would block a bind now. Reserves nothing.",
        body=requests.Check,
        example=samples.PHONES,
        responses={
            200: ResponseDoc(
                "Bindings and holds that would block the bind.", schemas.Holders, {"data": [samples.HOLDER]}
            )
        },
        problems=PHONE_PROBLEMS,
    ),
)
async def check(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show what would block a bind."""
    call = ApiRequest(request)
    fields = call.body(requests.Check)
    call.app_state.held_answers.require_budget(call.service, call.principal)
    holders = await call.run_read(_check, call.app_state.held_answers, call.principal, fields)
    return json_response({"data": [call.principal.redact_holder(holder) for holder in holders]})


def _check(
    service: BindingService, held_answers: HeldAnswers, principal: Principal, fields: dict[str, Any]
) -> list[Holder]:
    holders = service.check(**fields)
    # Its two phones are two candidates, and one that is known to be held would make every answer a match.
    record_question(service, principal, "check", has_match=bool(holders), is_counted=True)
    if not all(principal.can_view(holder) for holder in holders):
        held_answers.count(service, principal)
    return holders


@get(
    "/bindings/{binding_id:str}",
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="get",
        summary="Show one binding as recorded.",
        responses={200: BINDING},
        problems=(*QUERY_PROBLEMS, errors.NotFound),
    ),
)
async def get_binding(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show one binding."""
    call = ApiRequest(request)
    binding = call.visible(await call.run_read(BindingService.get, call.binding_id()))
    return json_response(binding_json(binding, call.principal))


@post(
    "/bindings/{binding_id:str}/reveal",
    permissions=(Permission.REVEAL,),
    operation=Operation(
        name="reveal",
        summary="Show one binding with full phones; the actor and the reason are recorded first.",
        body=requests.Reveal,
        example={"reason": "complaint 118"},
        responses={200: BINDING},
        problems=(*BODY_PROBLEMS, errors.NotFound),
    ),
)
async def reveal(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show one binding with full phones, and record it."""
    call = ApiRequest(request)
    binding_id = call.binding_id()
    reason = call.body(requests.Reveal)["reason"]
    binding = await call.run_read(_reveal, binding_id, reason)
    return json_response(binding_json(binding, call.principal, revealed=True))


def _reveal(service: BindingService, binding_id: str, reason: str) -> Binding:
    service.reveal([binding_id], reason=reason)
    return service.get(binding_id)


@get(
    "/bindings/{binding_id:str}/events",
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="history",
        summary="Show every event of a binding, in order.",
        responses={
            200: ResponseDoc(
                "All events of the binding.", schemas.History, {"data": [samples.EVENT], "next_cursor": None}
            )
        },
        problems=(*QUERY_PROBLEMS, errors.NotFound),
    ),
)
async def history(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show every event of a binding."""
    call = ApiRequest(request)
    binding_id = call.binding_id()
    call.visible(await call.run_read(BindingService.get, binding_id))
    events = await call.run_read(BindingService.history, binding_id)
    return json_response({"data": call.principal.redact_history(events), "next_cursor": None})


@get(
    "/bindings",
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="list",
        summary="List bindings, newest first, by filters other than numbers.",
        query=requests.Filters,
        responses={200: _PAGE},
        problems=QUERY_PROBLEMS,
    ),
)
async def list_bindings(request: Request[Any, Any, Any]) -> ApiResponse:
    """List bindings by filters other than numbers."""
    call = ApiRequest(request)
    page = await _search_page(call, call.query(requests.Filters))
    return json_response({name: page[name] for name in ("data", "next_cursor")})


@post(
    "/bindings/search",
    status_code=200,
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="search",
        summary="List bindings, newest first, by any filter.",
        body=requests.Search,
        example={"phone": samples.BINDING.phone_a.digits, "state": "active"},
        responses={
            200: ResponseDoc(
                "A page of bindings, and the holds of the number.",
                schemas.SearchResult,
                {"data": [samples.BINDING], "next_cursor": None, "holds": [samples.HOLD]},
            )
        },
        problems=PHONE_PROBLEMS,
    ),
)
async def search(request: Request[Any, Any, Any]) -> ApiResponse:
    """List bindings by any filter, and holds if a number is given."""
    call = ApiRequest(request)
    return json_response(await _search_page(call, call.body(requests.Search)))


def _holds(
    service: BindingService, principal: Principal, phone: str | None, middle_number: str | None
) -> tuple[PhoneHold, ...]:
    """Return the holds of the phone, or else of the middle number, as the principal may see them."""
    if phone is not None:
        return visible_holds(service.holds(phone=phone), principal.actor_filter, (Phone(phone),))
    if middle_number is not None:
        return visible_holds(service.holds(middle_number=middle_number), principal.actor_filter, ())
    return ()


async def _search_page(call: ApiRequest, filters: dict[str, Any]) -> dict[str, Any]:
    reveal_reason = call.pop_reveal(filters)
    if call.principal.actor_filter is not None:
        filters["actor"] = call.principal.actor_filter
    page, holds, revealed = await call.run_read(_search, call.principal, filters, reveal_reason)
    data = bindings_json(page.data, call.principal, revealed=revealed)
    return {"data": data, "next_cursor": page.next_cursor, "holds": holds}


def _search(
    service: BindingService, principal: Principal, filters: dict[str, Any], reveal_reason: str | None
) -> tuple[Page[Binding], tuple[PhoneHold, ...], bool]:
    page = service.search(**filters)
    phone = filters.get("phone")
    holds = _holds(service, principal, phone, filters.get("middle_number"))
    if phone is not None:
        record_question(service, principal, "search", has_match=bool(page.data or holds))
    return page, holds, record_reveal(service, page.data, reveal_reason)


@post(
    "/refusals/search",
    status_code=200,
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="search_refusals",
        summary="List binds that were refused before the provider was called, newest first.",
        body=requests.Refusals,
        example={"reference": samples.REFUSED_BIND.reference},
        responses={
            200: ResponseDoc(
                "A page of refused binds.",
                schemas.RefusedBinds,
                {"data": [samples.REFUSED_BIND], "next_cursor": None},
            )
        },
        problems=PHONE_PROBLEMS,
    ),
)
async def search_refusals(request: Request[Any, Any, Any]) -> ApiResponse:
    """List refused binds."""
    call = ApiRequest(request)
    filters = call.body(requests.Refusals)
    if call.principal.actor_filter is not None:
        filters["actor"] = call.principal.actor_filter
    page = await call.run_read(_search_refusals, call.principal, filters)
    return json_response({"data": refused_binds_json(page.data, call.principal), "next_cursor": page.next_cursor})


def _search_refusals(service: BindingService, principal: Principal, filters: dict[str, Any]) -> Page[RefusedBind]:
    page = service.search_refusals(**filters)
    if filters.get("phone") is not None:
        record_question(service, principal, "refusals", has_match=bool(page.data))
    return page


@post(
    "/access-log/search",
    status_code=200,
    permissions=(Permission.READ,),
    operation=Operation(
        name="search_access_log",
        summary="List reveals, searches by a phone, exports and administrative acts, newest first.",
        body=requests.AccessLogSearch,
        example={"kind": "reveal", "since": samples.BINDING.requested_at},
        responses={
            200: ResponseDoc(
                "A page of the access log.",
                schemas.AccessLogEntries,
                {"data": [samples.ACCESS_LOG_ENTRY], "next_cursor": None, "searched_to": None},
            )
        },
        problems=BODY_PROBLEMS,
    ),
)
async def search_access_log(request: Request[Any, Any, Any]) -> ApiResponse:
    """List entries of the access log."""
    call = ApiRequest(request)
    filters = call.body(requests.AccessLogSearch)
    page = await call.run_read(lambda service: service.access_log.entries(**filters))
    return json_response(serialization.fields(page))


@post(
    "/lookup",
    status_code=200,
    permissions=(*OWN_OR_ALL, Permission.ROUTE),
    operation=Operation(
        name="lookup",
        summary="Show the active bindings of a phone, a reference, or a middle number and its caller.",
        body=requests.Lookup,
        example={"middle_number": samples.BINDING.middle_number_a, "party": samples.BINDING.phone_a.digits},
        responses={
            200: ResponseDoc("The active bindings.", schemas.ActiveBindings, {"data": [samples.ACTIVE_BINDING]})
        },
        problems=PHONE_PROBLEMS,
    ),
)
async def lookup(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show what is active now: the hot path."""
    call = ApiRequest(request)
    fields = call.body(requests.Lookup)
    reveal_reason = call.pop_reveal(fields)
    bindings, revealed = await call.run_read(_lookup, call.principal, fields, reveal_reason)
    party = fields.get("party") or fields.get("phone")
    data = active_bindings_json(bindings, call.principal, party=party, revealed=revealed)
    return json_response({"data": data})


def _lookup(
    service: BindingService, principal: Principal, fields: dict[str, Any], reveal_reason: str | None
) -> tuple[list[Binding], bool]:
    bindings = [binding for binding in service.lookup(**fields) if principal.can_view(binding)]
    if fields.get("phone") is not None or fields.get("party") is not None:
        record_question(service, principal, "lookup", has_match=bool(bindings))
    return bindings, record_reveal(service, bindings, reveal_reason)


@post(
    "/trace",
    status_code=200,
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="trace",
        summary="Show which bindings had a middle number at an instant, which missed it narrowly, and the holds.",
        body=requests.Trace,
        example={
            "middle_number": samples.BINDING.middle_number_a,
            "at": "2026-11-23T14:32:00Z",
            "party": samples.BINDING.phone_a.digits,
        },
        responses={
            200: ResponseDoc("The holders, the near misses and the holds.", schemas.TraceResponse, samples.TRACE)
        },
        problems=PHONE_PROBLEMS,
    ),
)
async def trace(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show which bindings had a middle number at an instant."""
    call = ApiRequest(request)
    fields = call.body(requests.Trace)
    reveal_reason = call.pop_reveal(fields)
    return json_response(await call.run_read(_trace, call.principal, fields, reveal_reason))


def _trace(
    service: BindingService, principal: Principal, fields: dict[str, Any], reveal_reason: str | None
) -> dict[str, Any]:
    result = service.trace(**fields)
    party = None if fields.get("party") is None else Phone(fields["party"])
    if party is not None:
        record_question(service, principal, "trace", has_match=result.has_match(party))
    return trace_json(
        result,
        principal,
        party=party,
        revealed=record_reveal(service, result.bindings, reveal_reason),
    )


HANDLERS = (
    check,
    get_binding,
    reveal,
    history,
    list_bindings,
    search,
    search_refusals,
    search_access_log,
    lookup,
    trace,
)
