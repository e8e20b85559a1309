"""The routes under /v1: read the request, ask the service, show the answer. No rule of the product lives here.

Each route says whom it lets in. What is asked runs on the threads for questions, what calls the provider on
those for binds (`executors`). A middle number or a phone never stands in an address: what has one is a POST.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from litestar import Request, Response, Router, get, post
from pydantic import ValidationError

from bindings import errors
from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.api import requests
from bindings.web.api.serializers import binding_json, bindings_json, json_response, redact_events, trace_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from bindings.domain.binding import Binding, Page
    from bindings.service import BindingService, BindResult
    from bindings.web.auth import Principal
    from bindings.web.state import AppState

Model = TypeVar("Model", bound="requests.RequestModel")
Answer = Response[bytes]

KEY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,255}")
NO_KEY = FieldError(KEY_HEADER, "must be given once, as 1 to 255 visible ASCII characters")
REPLAYED_HEADER = "Idempotent-Replayed"
OWN_OR_ALL = (Permission.BIND, Permission.READ)


async def authenticate(request: Request[Any, Any, Any]) -> Response[None] | None:
    """Recognise the caller and hold their role against what the route needs; it runs before every handler.

    No guard: for one the framework copies the whole handler, at every request. Anybody may ask for the methods of
    a path: the framework's own answer knows those of the path's first handler only.
    """
    if request.method == "OPTIONS":
        path = request.scope["path_template"]
        methods = {each for route in request.app.routes if route.path_format == path for each in route.methods}
        return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(methods))})
    app_state: AppState = request.app.state.app_state
    who = await app_state.authenticator.authenticate(request.headers)
    request.scope["state"]["principal"] = who
    if not who.has_permission(*request.route_handler.opt["for_"]):
        raise problems.Forbidden
    return None


class _ApiRequest:
    """One request: who asks, and the service that acts on their behalf."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self.app_state: AppState = request.app.state.app_state
        self.who: Principal = request.scope["state"]["principal"]
        self._request = request

    @property
    def service(self) -> BindingService:
        """The service in the caller's name, for what is recorded."""
        state = self._request.scope["state"]
        return self.app_state.service.as_caller(actor=self.who.actor, request_id=state["request_id"])

    def body(self, model: type[Model], *, beside: Sequence[FieldError] = ()) -> Model:
        """The request's body; `Malformed`, or `InvalidRequest` with every field that is wrong.

        `beside` is what is wrong with the headers: told together with a field of a wrong type.
        """
        self._check_no_query()
        raw = self._request.scope["state"]["body"] or b"{}"
        try:
            found = model.model_validate_json(raw)
        except ValidationError as error:
            refused = _refused(model, raw, error)
            if isinstance(refused, InvalidRequest):
                refused = InvalidRequest([*refused.faults, *beside])
            raise refused from None
        _EACH_ONCE.decode(raw.decode())
        return found

    def query(self, model: type[Model]) -> Model:
        """The request's query; a parameter that is unknown or given twice is refused."""
        given = self._request.query_params.dict()
        _check_once([name for name, values in given.items() if len(values) > 1])
        once = {name: values[0] for name, values in given.items()}
        try:
            return model.model_validate(once)
        except ValidationError as error:
            raise _all_faults(model, once, error) from None

    def _check_no_query(self) -> None:
        """Refuse a query where none is read: what would be ignored may be a filter, or a phone number."""
        if self._request.scope["query_string"]:
            given = self._request.query_params.dict()
            raise InvalidRequest(
                [FieldError(problems.safe_field_name(name), problems.NO_FIELD) for name in given or [""]]
            )

    def binding_id(self) -> str:
        """The id in the address, which goes into the log line only if it is one."""
        self._check_no_query()
        found = validation.binding_id(self._request.path_params["binding_id"])
        self._request.scope["state"]["binding_id"] = found
        return found

    def may_reveal(self, reveal: requests.Reveal | None) -> None:
        """Refuse a wish to see full phones from whoever may not."""
        if reveal is not None:
            if not self.who.has_permission(Permission.REVEAL):
                raise problems.Forbidden("the role of this key does not see full phone numbers; nothing was shown")
            validation.reason(reveal.reason)

    def reveal(self, found: list[Binding], reveal: requests.Reveal | None) -> bool:
        """Record that full phones are about to be shown; whether they may be."""
        if reveal is not None and found:
            self.service.reveal([one.id for one in found], reason=reveal.reason)
        return reveal is not None

    def visible(self, found: Binding) -> Binding:
        """The binding, or `NotFound` where it is not the caller's to see."""
        if not self.who.can_view(found):
            raise errors.NotFound(binding_id=found.id)
        return found


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no field stands twice: readers differ about which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        _check_once([name for name in found if names.count(name) > 1])
    return found


_EACH_ONCE = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)


def _check_once(twice: list[str]) -> None:
    if twice:
        raise InvalidRequest(
            [FieldError(problems.safe_field_name(name), "is given more than once") for name in twice]
        )


def _refused(model: type[Model], raw: bytes, error: ValidationError) -> errors.BindingsError:
    """What is wrong with a body, all of it: fields of a wrong type, and values that are no good."""
    if any(one["type"] == "json_invalid" for one in error.errors(include_input=False, include_url=False)):
        return problems.Malformed()
    given = json.loads(raw)
    return _all_faults(model, given, error) if isinstance(given, dict) else problems.invalid(error)


def _all_faults(model: type[Model], given: dict[str, Any], error: ValidationError) -> InvalidRequest:
    invalid = problems.invalid(error)
    try:
        model.check({name: given.get(name) for name in model.model_fields})
    except InvalidRequest as values:
        named = {fault.field for fault in invalid.faults}
        return InvalidRequest([*invalid.faults, *(one for one in values.faults if one.field not in named)])
    return invalid


@post("/bindings", for_=(Permission.BIND,))
async def bind(request: Request[Any, Any, Any]) -> Answer:
    """Bind two phones."""
    call = _ApiRequest(request)
    key = _idempotency_key(request)
    asked = call.body(requests.Bind, beside=[NO_KEY] if key == "" else []).to_kwargs()
    asked |= {"idempotency_key": key, "own": not call.who.has_permission(Permission.READ)}
    metrics, service = call.app_state.metrics, call.service
    try:
        bound = await call.app_state.executors.run_provider_call(lambda: _bind(service, asked))
    except errors.OutcomeUnknown as unknown:
        metrics.record_bind_error(unknown)
        return _accepted(unknown, call.who)
    except errors.BindingsError as error:
        metrics.record_bind_error(error)
        if isinstance(error, errors.PhoneInUse):
            error.holder = call.who.redact_holder(error.holder)
        raise
    metrics.record_bind(replayed=bound.replayed)
    request.scope["state"]["binding_id"] = bound.binding.id
    status, headers = (200, {REPLAYED_HEADER: "true"}) if bound.replayed else (201, {})
    return json_response(binding_json(bound.binding, call.who), status, headers | _location(bound.binding))


def _idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    """The key that was given; what is no key becomes an empty one, which the service refuses with all the rest."""
    given = request.headers.getall(KEY_HEADER, [])
    if not given:
        return None
    return given[0] if len(given) == 1 and KEY.fullmatch(given[0]) else ""


def _bind(service: BindingService, asked: dict[str, Any]) -> BindResult:
    try:
        return service.bind_with_result(**asked)
    except InvalidRequest as invalid:  # under the name that the caller gave it
        faults = [NO_KEY if one.field == "idempotency_key" else one for one in invalid.faults]
        raise InvalidRequest(faults) from None


def _accepted(unknown: errors.OutcomeUnknown, who: Principal) -> Answer:
    headers = {REPLAYED_HEADER: "true"} if unknown.replayed else {}
    return json_response(binding_json(unknown.binding, who), 202, headers | _location(unknown.binding))


def _location(found: Binding) -> dict[str, str]:
    return {"Location": f"/v1/bindings/{found.id}"}


@post("/bindings/{binding_id:str}/unbind", for_=(Permission.BIND,))
async def unbind(request: Request[Any, Any, Any]) -> Answer:
    """End a binding early."""
    call = _ApiRequest(request)
    binding_id = call.binding_id()
    reason = call.body(requests.Unbind).reason
    service = call.service

    def run() -> Binding:
        call.visible(service.get(binding_id))
        return service.unbind(binding_id, reason=reason)

    try:
        ended = await call.app_state.executors.run_provider_call(run)
    except errors.OutcomeUnknown as unknown:
        return _accepted(unknown, call.who)
    return json_response(binding_json(ended, call.who))


@post("/bindings/check", status_code=200, for_=OWN_OR_ALL)
async def check(request: Request[Any, Any, Any]) -> Answer:
    """Say who would refuse a bind."""
    call = _ApiRequest(request)
    asked = call.body(requests.Check).to_kwargs()
    found = await call.app_state.run_read(lambda service: service.check(**asked))
    return json_response({"data": [call.who.redact_holder(holder) for holder in found]})


@get("/bindings/{binding_id:str}", for_=OWN_OR_ALL)
async def get_binding(request: Request[Any, Any, Any]) -> Answer:
    """Show one binding."""
    call = _ApiRequest(request)
    binding_id = call.binding_id()
    found = call.visible(await call.app_state.run_read(lambda service: service.get(binding_id)))
    return json_response(binding_json(found, call.who))


@post("/bindings/{binding_id:str}/reveal", for_=(Permission.REVEAL,))
async def reveal(request: Request[Any, Any, Any]) -> Answer:
    """Show one binding with full phones, on the record."""
    call = _ApiRequest(request)
    binding_id = call.binding_id()
    wish = call.body(requests.Reveal)
    service = call.service

    def run() -> Binding:
        service.reveal([binding_id], reason=wish.reason)
        return service.get(binding_id)

    return json_response(binding_json(await call.app_state.executors.run_read(run), call.who, revealed=True))


@get("/bindings/{binding_id:str}/events", for_=OWN_OR_ALL)
async def history(request: Request[Any, Any, Any]) -> Answer:
    """Show every event of a binding."""
    call = _ApiRequest(request)
    binding_id = call.binding_id()
    call.visible(await call.app_state.run_read(lambda service: service.get(binding_id)))
    found = await call.app_state.run_read(lambda service: service.history(binding_id))
    return json_response({"data": redact_events(found, call.who), "next_cursor": None})


@get("/bindings", for_=OWN_OR_ALL)
async def list_bindings(request: Request[Any, Any, Any]) -> Answer:
    """List bindings by filters that are no numbers."""
    call = _ApiRequest(request)
    return await _searched(call, call.query(requests.Filters).given(), None)


@post("/bindings/search", status_code=200, for_=OWN_OR_ALL)
async def search(request: Request[Any, Any, Any]) -> Answer:
    """List bindings by any filter."""
    call = _ApiRequest(request)
    wish = call.body(requests.Search)
    return await _searched(call, wish.given(), wish.reveal)


async def _searched(call: _ApiRequest, filters: dict[str, Any], wish: requests.Reveal | None) -> Answer:
    call.may_reveal(wish)
    if not call.who.has_permission(Permission.READ):
        filters |= {"actor": call.who.actor}

    def run(service: BindingService) -> tuple[Page[Binding], bool]:
        page = service.search(**filters)
        return page, call.reveal(list(page.data), wish)

    page, revealed = await call.app_state.run_read(run)
    shown = bindings_json(page.data, call.who, revealed=revealed)
    return json_response({"data": shown, "next_cursor": page.next_cursor})


@post("/lookup", status_code=200, for_=OWN_OR_ALL)
async def lookup(request: Request[Any, Any, Any]) -> Answer:
    """Show what is active now: the hot path."""
    call = _ApiRequest(request)
    wish = call.body(requests.Lookup)
    call.may_reveal(wish.reveal)

    def run(service: BindingService) -> tuple[list[Binding], bool]:
        found = service.lookup(phone=wish.phone, middle_number=wish.middle_number, party=wish.party)
        seen = [one for one in found if call.who.can_view(one)]
        return seen, call.reveal(seen, wish.reveal)

    found, revealed = await call.app_state.run_read(run)
    return json_response({"data": bindings_json(found, call.who, revealed=revealed)})


@post("/trace", status_code=200, for_=OWN_OR_ALL)
async def trace(request: Request[Any, Any, Any]) -> Answer:
    """Say who had a middle number at an instant."""
    call = _ApiRequest(request)
    wish = call.body(requests.Trace)
    call.may_reveal(wish.reveal)

    def run(service: BindingService) -> dict[str, Any]:
        found = service.trace(**wish.model_dump(exclude_none=True, exclude={"reveal"}))
        everybody = [one.binding for one in found.holders] + [one.binding for one in found.near_misses]
        return trace_json(found, call.who, revealed=call.reveal(everybody, wish.reveal))

    return json_response(await call.app_state.run_read(run))


@get("/events", for_=OWN_OR_ALL)
async def events(request: Request[Any, Any, Any]) -> Answer:
    """Show the change feed after a cursor; wait for it to go on where that is asked for."""
    call = _ApiRequest(request)
    wish = call.query(requests.Feed)
    validation.feed(after=wish.after, limit=wish.limit, wait_s=wish.wait_s)
    read = _feed_reader(call.who, wish.limit)
    page = await call.app_state.run_read(read(wish.after))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wish.wait_s
    while not page.data and (left := deadline - loop.time()) > 0 and not call.app_state.notifier.stopping:
        after = str(page.next_cursor)
        if not await _until_disconnected(request, call.app_state.notifier.wait(after, left)):
            break
        await call.app_state.authenticator.ensure_still_valid(call.who, request.headers)
        page = await call.app_state.run_read(read(after))
    return json_response({"data": redact_events(page.data, call.who), "next_cursor": page.next_cursor})


async def _until_disconnected(request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, None]) -> bool:
    """Wait for as long as the caller does; False where they went away first."""
    wait, gone = asyncio.ensure_future(waiting), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((wait, gone), return_when=asyncio.FIRST_COMPLETED)
        return wait.done() and wait.result() is None
    finally:
        wait.cancel()
        gone.cancel()


async def _gone(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _feed_reader(who: Principal, limit: int) -> Callable[[str | None], Callable[[BindingService], Page[Any]]]:
    """How this caller reads the feed: all of it, or the events of what they asked for."""
    if who.has_permission(Permission.READ):
        return lambda after: lambda service: service.events(after=after, limit=limit)
    return lambda after: lambda service: service.events_for_actor(who.actor, after=after, limit=limit)


def router() -> Router:
    """Everything under /v1."""
    handlers = [bind, unbind, check, get_binding, reveal, history, list_bindings, search, lookup, trace, events]
    return Router("/v1", route_handlers=handlers, before_request=authenticate, include_in_schema=False)
