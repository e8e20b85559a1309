"""The calls under /v1 that change a binding: bind, replace, extend, unbind.

Each names the permissions that it needs, and carries its description for the OpenAPI document. No rule about
bindings belongs here.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any, ParamSpec

from litestar import Request, post

from bindings import errors
from bindings.domain import serialization
from bindings.domain.binding import Binding
from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest
from bindings.service import BindingService
from bindings.validation import requests as validation
from bindings.web import binds, problems
from bindings.web.api import requests, samples, schemas
from bindings.web.api.api_request import ApiRequest
from bindings.web.api.operations import BODY_PROBLEMS, PHONE_PROBLEMS, PROVIDER_PROBLEMS, Operation, ResponseDoc
from bindings.web.api.serializers import binding_json, bindings_json, json_response
from bindings.web.phone_questions import record_question
from bindings.web.responses import ApiResponse  # noqa: TC001 -- the framework reads the annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.lifecycle.bind import BindResult
    from bindings.web.auth import Principal

Params = ParamSpec("Params")

KEY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,255}")
INVALID_KEY = FieldError(KEY_HEADER, "must be given once, as 1 to 255 visible ASCII characters")


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
    fields = _body_with_key(call, requests.Bind)
    return await _run_bind(call, _bind, call.service, fields)


def _body_with_key(call: ApiRequest, model: type[requests.RequestModel]) -> dict[str, Any]:
    """Return the fields of the body, and `idempotency_key` from its header; raises as `ApiRequest.body` does."""
    key = _idempotency_key(call.request)
    fields = call.body(model, header_errors=[INVALID_KEY] if key == "" else [])
    return fields | {"idempotency_key": key}


def _idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """Return the key, None if there is none, or an empty text if it is not valid: the service then refuses it."""
    values = request.headers.getall(KEY_HEADER, [])
    if not values:
        return None
    return values[0] if len(values) == 1 and KEY.fullmatch(values[0]) else ""


def _bind(service: BindingService, fields: dict[str, Any]) -> BindResult:
    app_id = service.runtime.app_id_or_default(fields.get("app_id"))
    with _name_key_as_header():
        return service.bind_request(validation.bind_request(**fields | {"app_id": app_id}))


@contextmanager
def _name_key_as_header() -> Iterator[None]:
    """Give an error of the idempotency key the name of its header: the client knows it by that."""
    try:
        yield
    except InvalidRequest as invalid:
        field_errors = [
            INVALID_KEY if error.field == "idempotency_key" else error for error in invalid.field_errors
        ]
        raise InvalidRequest(field_errors) from None


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
    fields = _body_with_key(call, requests.Replace)
    own_only = not call.principal.has_permission(Permission.READ)
    return await _run_bind(call, _replace, call.service, binding_id, fields, own_only=own_only)


def _replace(service: BindingService, binding_id: str, fields: dict[str, Any], *, own_only: bool) -> BindResult:
    with _name_key_as_header():
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


HANDLERS = (bind, replace, unbind, unbind_all, extend)
