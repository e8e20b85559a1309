"""The routes under /v1: each reads the request, calls the service and encodes the response.

No rule about bindings belongs here.

Each route names the permissions that it needs, and carries its description for the OpenAPI document. Reads run on
the threads for reads, calls of the provider on their own threads (`executors`). A middle number or a phone never
stands in an address: a call that has one is a POST.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any, ParamSpec

from litestar import Request, Response, Router, get, post

from bindings import errors
from bindings.domain import serialization
from bindings.domain.binding import Binding
from bindings.domain.hold import visible_holds
from bindings.domain.phone import Phone
from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest
from bindings.service import BindingService
from bindings.validation import requests as validation
from bindings.web import binds, problems
from bindings.web.api import requests, samples, schemas
from bindings.web.api.operations import (
    BODY_PROBLEMS,
    PHONE_PROBLEMS,
    PROVIDER_PROBLEMS,
    QUERY_PROBLEMS,
    Operation,
    ResponseDoc,
)
from bindings.web.api.serializers import (
    active_bindings_json,
    binding_json,
    bindings_json,
    json_response,
    refused_binds_json,
    trace_json,
)
from bindings.web.phone_questions import record_question
from bindings.web.request import ServiceRequest
from bindings.web.responses import ApiResponse  # noqa: TC001 -- the framework reads the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from bindings.domain.binding import Event, Holder, Page, RefusedBind
    from bindings.domain.hold import PhoneHold
    from bindings.lifecycle.bind import BindResult
    from bindings.web.auth import Principal
    from bindings.web.phone_questions import HeldAnswers
    from bindings.web.state import AppState

Params = ParamSpec("Params")

KEY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,255}")
INVALID_KEY = FieldError(KEY_HEADER, "must be given once, as 1 to 255 visible ASCII characters")
OWN_OR_ALL = (Permission.BIND, Permission.READ)

_BINDING = ResponseDoc("The binding.", Binding, samples.BINDING)
_PAGE = ResponseDoc("A page of bindings.", schemas.Bindings, {"data": [samples.BINDING], "next_cursor": None})


async def authenticate(request: Request[Any, Any, Any]) -> Response[None] | None:
    """Find the principal and check the permissions of the route; it runs before every handler.

    It is not a guard: for a guard the framework copies the whole handler at every request. OPTIONS needs no key;
    it is answered here, because the framework's own response lists the methods of the path's first handler only.
    """
    if request.method == "OPTIONS":
        methods = sorted(ServiceRequest(request).allowed_methods())
        return Response(None, status_code=204, headers={"Allow": ", ".join(methods)})
    app_state: AppState = request.app.state.app_state
    principal = await app_state.authenticator.authenticate(request)
    request.scope["state"]["principal"] = principal
    if not principal.has_permission(*request.route_handler.opt["permissions"]):
        raise problems.Forbidden
    return None


class ApiRequest(ServiceRequest):
    """An authenticated request to a route under /v1."""

    @property
    def principal(self) -> Principal:
        """The authenticated caller."""
        return self.require_principal

    def body(
        self, model: type[requests.RequestModel], *, header_errors: Sequence[FieldError] = ()
    ) -> dict[str, Any]:
        """Return the fields of the body; raises `Malformed` or `InvalidRequest` (see `requests.read_body`)."""
        self._refuse_query()
        return requests.read_body(model, self.state["body"], header_errors=header_errors)

    def query(self, model: type[requests.RequestModel]) -> dict[str, Any]:
        """Return the parameters of the query; raises `InvalidRequest` (see `requests.read_query`)."""
        return requests.read_query(model, self.request.query_params.dict())

    def binding_id(self) -> str:
        """Return the id in the path. The log line gets it only if it is a UUID."""
        self._refuse_query()
        binding_id = validation.binding_id(self.request.path_params["binding_id"])
        self.state["binding_id"] = binding_id
        return binding_id

    def visible(self, binding: Binding) -> Binding:
        """Return the binding; raises `NotFound` if the principal may not view it."""
        if not self.principal.can_view(binding):
            raise errors.NotFound(binding_id=binding.id)
        return binding

    def pop_reveal(self, fields: dict[str, Any]) -> str | None:
        """Remove `reveal` from the fields and return its reason, or None if full phones are not requested.

        Raises `Forbidden` if the principal may not see full phones, and `InvalidRequest` if the reason is not
        valid.
        """
        reveal = fields.pop(requests.REVEAL, None)
        if reveal is None:
            return None
        if not self.principal.has_permission(Permission.REVEAL):
            raise problems.Forbidden("the role of this key does not see full phone numbers; nothing was shown")
        return validation.reason(reveal["reason"])

    def _refuse_query(self) -> None:
        """Refuse a query on a call that has none: an ignored parameter may be a filter, or a phone number."""
        if self.request.scope["query_string"]:
            names = list(self.request.query_params.dict()) or [""]
            raise InvalidRequest(problems.name_errors(names, problems.UNKNOWN_FIELD))


def _record_reveal(service: BindingService, bindings: Iterable[Binding], reason: str | None) -> bool:
    """Record that full phones are about to be shown, if there is a reason; return whether to show them."""
    binding_ids = [binding.id for binding in bindings]
    if reason is not None and binding_ids:
        service.reveal(binding_ids, reason=reason)
    return reason is not None


@post(
    "/bindings",
    permissions=(Permission.BIND,),
    operation=Operation(
        name="bind",
        summary="Lend a middle number to two phones. With an Idempotency-Key it is always safe to repeat.",
        body=requests.Bind,
        example=samples.PHONES | {"pool_number": "918806", "expire_s": 3600, "reference": "order-42"},
        headers=(KEY_HEADER,),
        responses={
            201: ResponseDoc("Bound.", Binding, samples.BINDING, headers=("Location",)),
            200: ResponseDoc(
                "Bound by an earlier call with this key.",
                Binding,
                samples.BINDING,
                headers=("Location", problems.REPLAYED_HEADER),
            ),
            202: ResponseDoc(
                "The outcome is not known yet; it is being resolved. Do not bind again.",
                Binding,
                samples.IN_DOUBT,
                headers=("Location", "Retry-After", problems.REPLAYED_HEADER),
            ),
        },
        problems=(
            *BODY_PROBLEMS,
            errors.PhoneInUse,
            errors.IdempotencyMismatch,
            *errors.BIND_FAILURES,
        ),
    ),
)
async def bind(request: Request[Any, Any, Any]) -> ApiResponse:
    """Bind two phones."""
    call = ApiRequest(request)
    key = _idempotency_key(request)
    fields = call.body(requests.Bind, header_errors=[INVALID_KEY] if key == "" else [])
    fields["idempotency_key"] = key
    return await _run_bind(call, _bind, call.service, fields)


def _idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """Return the key, None if there is none, or an empty text if it is not valid: the service then refuses it."""
    values = request.headers.getall(KEY_HEADER, [])
    if not values:
        return None
    return values[0] if len(values) == 1 and KEY.fullmatch(values[0]) else ""


def _bind(service: BindingService, fields: dict[str, Any]) -> BindResult:
    app_id = service.runtime.app_id_or_default(fields.get("app_id"))
    with _key_named_as_header():
        return service.bind_request(validation.bind_request(**fields | {"app_id": app_id}))


@contextmanager
def _key_named_as_header() -> Iterator[None]:
    """Give an error of the idempotency key the name of its header: the client knows it by that."""
    try:
        yield
    except InvalidRequest as invalid:
        faults = [INVALID_KEY if fault.field == "idempotency_key" else fault for fault in invalid.field_errors]
        raise InvalidRequest(faults) from None


async def _run_bind(
    call: ApiRequest, function: Callable[Params, BindResult], *args: Params.args, **kwargs: Params.kwargs
) -> ApiResponse:
    """Run a call that makes a binding, and return the response; raise its error."""
    try:
        result = await binds.run_bind(call.app_state, call.principal, function, *args, **kwargs)
    except errors.OutcomeUnknown as unknown:
        return _accepted(unknown, call.principal)
    call.state["binding_id"] = result.binding.id
    status, headers = (200, {problems.REPLAYED_HEADER: "true"}) if result.replayed else (201, {})
    return json_response(binding_json(result.binding, call.principal), status, headers | _location(result.binding))


def _accepted(unknown: errors.OutcomeUnknown, principal: Principal) -> ApiResponse:
    """Return the binding whose outcome is not known; of a replace, with whether the predecessor has ended."""
    extra: dict[str, Any] = {}
    if unknown.predecessor_ended is not None:
        extra = {"predecessor_ended": unknown.predecessor_ended, "detail": str(unknown)}
    body = binding_json(unknown.binding, principal, extra=extra)
    return json_response(body, 202, problems.headers(unknown) | _location(unknown.binding))


def _location(binding: Binding) -> dict[str, str]:
    return {"Location": f"/v1/bindings/{binding.id}"}


@post(
    "/bindings/{binding_id:str}/replace",
    permissions=(Permission.BIND,),
    operation=Operation(
        name="replace",
        summary="End a binding and let a new one take over: another party, or a renewal. Its phones are never free"
        " in between. With an Idempotency-Key it is safe to repeat.",
        body=requests.Replace,
        needs_body=False,
        example={"phone_b": samples.SUCCESSOR.phone_b.digits},
        headers=(KEY_HEADER,),
        responses={
            201: ResponseDoc(
                "Replaced: this is the successor. Its middle numbers may differ.",
                Binding,
                samples.SUCCESSOR,
                headers=("Location",),
            ),
            200: ResponseDoc(
                "Replaced by an earlier call with this key.",
                Binding,
                samples.SUCCESSOR,
                headers=("Location", problems.REPLAYED_HEADER),
            ),
            202: ResponseDoc(
                "The outcome is not known yet. If the body has the id of the address, it is the predecessor, whose"
                " end is not confirmed and which is offered no more: repeat the same call. Otherwise it is the"
                " successor, which is being resolved: do not bind again.",
                schemas.UnclearReplace,
                samples.UNCLEAR_REPLACE,
                headers=("Location", "Retry-After", problems.REPLAYED_HEADER),
            ),
        },
        problems=(
            *BODY_PROBLEMS,
            errors.NotFound,
            errors.NotActive,
            errors.AlreadyReplaced,
            errors.PhoneInUse,
            errors.IdempotencyMismatch,
            *errors.BIND_FAILURES,
        ),
    ),
)
async def replace(request: Request[Any, Any, Any]) -> ApiResponse:
    """End a binding and let a successor take over."""
    call = ApiRequest(request)
    binding_id = call.binding_id()
    key = _idempotency_key(request)
    fields = call.body(requests.Replace, header_errors=[INVALID_KEY] if key == "" else [])
    fields["idempotency_key"] = key
    own_only = not call.principal.has_permission(Permission.READ)
    return await _run_bind(call, _replace, call.service, binding_id, fields, own_only=own_only)


def _replace(service: BindingService, binding_id: str, fields: dict[str, Any], *, own_only: bool) -> BindResult:
    with _key_named_as_header():
        return service.replace_request(binding_id, validation.replacement(**fields), own_only=own_only)


@post(
    "/bindings/{binding_id:str}/unbind",
    permissions=(Permission.BIND,),
    operation=Operation(
        name="unbind",
        summary="End a binding early, now or after_s seconds from now. Safe to repeat.",
        body=requests.Unbind,
        needs_body=False,
        example={"reason": "trip ended"},
        responses={
            200: ResponseDoc(
                "The binding has ended; or it is active, with the end that after_s asked for.",
                Binding,
                samples.UNBOUND,
            ),
            202: ResponseDoc(
                "The provider gave no clear answer; the unbind is recorded and will be retried.",
                Binding,
                samples.BINDING,
                headers=("Location", "Retry-After"),
            ),
        },
        problems=(*BODY_PROBLEMS, *PROVIDER_PROBLEMS, errors.NotFound, errors.NotActive),
    ),
)
async def unbind(request: Request[Any, Any, Any]) -> ApiResponse:
    """End a binding early."""
    call = ApiRequest(request)
    binding_id = call.binding_id()
    fields = call.body(requests.Unbind)
    try:
        binding = await call.app_state.executors.run_provider_call(
            call.principal.actor, _unbind, call, binding_id, fields
        )
    except errors.OutcomeUnknown as unknown:
        return _accepted(unknown, call.principal)
    return json_response(binding_json(binding, call.principal))


def _unbind(call: ApiRequest, binding_id: str, fields: dict[str, Any]) -> Binding:
    service = call.service
    call.visible(service.get(binding_id))
    return service.unbind(binding_id, **fields)


@post(
    "/bindings/unbind",
    status_code=200,
    permissions=(Permission.BIND,),
    operation=Operation(
        name="unbind_all",
        summary="End all bindings of a phone, a middle number or a reference. Safe to repeat.",
        body=requests.UnbindAll,
        example={"reference": "order-42", "reason": "order closed"},
        responses={
            200: ResponseDoc(
                "All have ended; or nothing was changed, if it was a dry run.",
                schemas.UnbindAllResult,
                samples.UNBIND_ALL,
            ),
            202: ResponseDoc(
                "Not all have ended yet; the unbinds are recorded and will be retried.",
                schemas.UnbindAllResult,
                samples.UNBIND_ALL | {"confirmed": 0, "unclear": 1, "bindings": [samples.BINDING]},
                headers=("Retry-After",),
            ),
        },
        problems=(*PHONE_PROBLEMS, errors.SelectionChanged),
    ),
)
async def unbind_all(request: Request[Any, Any, Any]) -> ApiResponse:
    """End all bindings of a phone, a middle number or a reference."""
    call = ApiRequest(request)
    fields = call.body(requests.UnbindAll)
    own_only = not call.principal.has_permission(Permission.READ)
    if fields.get("phone") is not None and not own_only:
        await call.run_read(_record_unbind_all, call.principal, fields)
    result = await call.app_state.executors.run_provider_call(
        call.principal.actor, call.service.unbind_all, own_only=own_only, **fields
    )
    body = serialization.fields(result) | {"bindings": bindings_json(result.bindings, call.principal)}
    if not result.unclear:
        return json_response(body)
    return json_response(body, 202, {"Retry-After": str(ceil(call.service.settings.recover_interval_s))})


def _record_unbind_all(service: BindingService, principal: Principal, fields: dict[str, Any]) -> None:
    """Record a reader's question, before a binding is ended."""
    listed = service.unbind_all(**fields | {"dry_run": True, "token": None})
    record_question(service, principal, "unbind", has_match=bool(listed.bindings))


@post(
    "/bindings/{binding_id:str}/extend",
    status_code=200,
    permissions=(Permission.BIND,),
    operation=Operation(
        name="extend",
        summary="Move the end of an active binding; the provider is not called. Safe to repeat.",
        body=requests.Extend,
        example={"expire_s": 1800},
        responses={
            200: ResponseDoc("The binding, with its new end; never an earlier one.", Binding, samples.BINDING)
        },
        problems=(*BODY_PROBLEMS, errors.NotFound, errors.NotActive),
    ),
)
async def extend(request: Request[Any, Any, Any]) -> ApiResponse:
    """Extend a binding."""
    call = ApiRequest(request)
    binding_id = call.binding_id()
    fields = call.body(requests.Extend)
    own_only = not call.principal.has_permission(Permission.READ)
    binding = await call.run_read(BindingService.extend, binding_id, own_only=own_only, **fields)
    return json_response(binding_json(binding, call.principal))


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
        responses={200: _BINDING},
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
        responses={200: _BINDING},
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
    return page, holds, _record_reveal(service, page.data, reveal_reason)


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
    return bindings, _record_reveal(service, bindings, reveal_reason)


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
        revealed=_record_reveal(service, result.bindings, reveal_reason),
    )


@get(
    "/events",
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="events",
        summary="Read the change feed after a cursor. An event that commits late is never skipped.",
        query=requests.Feed,
        responses={
            200: ResponseDoc(
                "A page of events.", schemas.Events, {"data": [samples.EVENT], "next_cursor": samples.EVENT.cursor}
            )
        },
        problems=QUERY_PROBLEMS,
    ),
)
async def events(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show the change feed after a cursor; with `wait_s` wait for new events (long polling)."""
    call = ApiRequest(request)
    fields = {"after": None} | call.query(requests.Feed)
    validation.feed(**fields)
    page = await call.run_read(_read_feed, call.principal, fields["after"], fields["limit"])
    notifier, loop = call.app_state.notifier, asyncio.get_running_loop()
    deadline = loop.time() + fields["wait_s"]
    while not page.data and (remaining_s := deadline - loop.time()) > 0 and not notifier.stopping:
        after = str(page.next_cursor)
        if not await _until_disconnected(request, notifier.wait(call.principal.actor, after, remaining_s)):
            break
        await call.app_state.authenticator.ensure_still_valid(call.principal, request)
        page = await call.run_read(_read_feed, call.principal, after, fields["limit"])
    data = [call.principal.redact_event(event) for event in page.data]
    return json_response({"data": data, "next_cursor": page.next_cursor})


def _read_feed(service: BindingService, principal: Principal, after: str | None, limit: int) -> Page[Event]:
    """Return a page of the feed: all events for a reader, those of its own bindings for an app."""
    if principal.has_permission(Permission.READ):
        return service.events(after=after, limit=limit)
    return service.events_for_actor(principal.actor, after=after, limit=limit)


async def _until_disconnected(request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, None]) -> bool:
    """Wait while the client is connected; return False if it disconnects first."""
    wait, disconnect = asyncio.ensure_future(waiting), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((wait, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return wait.done() and wait.result() is None
    finally:
        wait.cancel()
        disconnect.cancel()


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def router() -> Router:
    """Return the router of all calls under /v1."""
    reads = [check, get_binding, history, list_bindings, search, search_refusals, search_access_log]
    reads += [lookup, trace, events]
    handlers = [bind, replace, unbind, unbind_all, extend, reveal, *reads]
    return Router("/v1", route_handlers=handlers, before_request=authenticate, include_in_schema=False)
