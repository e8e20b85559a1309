"""The page of one binding: its data, its history, its full phones for a reason that is recorded, and its end.

The forms that move the end redirect to the page, which then shows the new end or the request to unbind; the form
that replaces the binding redirects to the page of its successor. If one is refused, the page says why and what to
do, and the form has what was entered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get, post

from bindings import errors
from bindings.domain.binding import Event, EventKind, Mode
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names
from bindings.errors import BindingsError, InvalidRequest
from bindings.service import BindingService
from bindings.store.statistics import code_of
from bindings.validation import requests as validation
from bindings.web import binds
from bindings.web.api import serializers
from bindings.web.console import end_forms, event_text, time_axis, time_zones
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from datetime import datetime

    from bindings.access.investigation import Replacement
    from bindings.domain.binding import Binding


@get("/bindings/{binding_id:str}", permissions=OWN_OR_ALL)
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show a binding. Its phones are masked unless the principal requested it, or has just revealed them."""
    context = PageContext(request)
    binding, events = await _binding_and_events(context)
    revealed = context.has_permission(Permission.REVEAL) and context.was_revealed(binding.id)
    response = await _binding_page(context, binding, events, revealed=revealed)
    return context.clear_reveal_cookie(response, binding.id) if revealed else response


@post("/bindings/{binding_id:str}/reveal", permissions=(Permission.REVEAL,), status_code=200)
async def reveal(request: Request[Any, Any, Any]) -> PageResponse:
    """Record the reason, and redirect to the binding's page, which shows the phones in full once.

    Not safe to repeat: each request records a reveal. A reload of the page records none and shows none.
    """
    context = PageContext(request)
    binding, events = await _binding_and_events(context)
    try:
        reason = validation.reason(context.form.get("reason", ""))
    except InvalidRequest as error:
        reason = context.form.get("reason", "")
        return await _binding_page(context, binding, events, error=error, reason=reason)
    await context.run_read(lambda service: service.reveal([binding.id], reason=reason))
    return context.set_reveal_cookie(context.redirect(f"/bindings/{binding.id}"), binding.id)


@post("/bindings/{binding_id:str}/extend", permissions=(Permission.BIND,), status_code=200)
async def extend(request: Request[Any, Any, Any]) -> PageResponse:
    """Move the promised end to a later time, and redirect to the binding's page. Safe to repeat."""
    context = PageContext(request)
    binding = await get_visible_binding(context)
    try:
        expire_s = end_forms.extension(context.form)
        extended = await context.run_read(BindingService.extend, binding.id, expire_s=expire_s)
        _require_moved(context, binding, extended, "longer")
    except BindingsError as error:
        return await _refused_form(context, "extend", error)
    return context.redirect(f"/bindings/{binding.id}")


@post("/bindings/{binding_id:str}/unbind", permissions=(Permission.BIND,), status_code=200)
async def unbind(request: Request[Any, Any, Any]) -> PageResponse:
    """End the binding now or later, and redirect to its page. Safe to repeat.

    The page also says if the unbind is recorded, but not confirmed by the provider yet.
    """
    context = PageContext(request)
    binding = await get_visible_binding(context)
    try:
        reason, after_s = end_forms.early_end(context.form)
        actor, call = context.require_principal.actor, context.service.unbind
        shortened = await context.app_state.executors.run_provider_call(
            actor, call, binding.id, reason=reason, after_s=after_s
        )
        if after_s is not None:
            _require_moved(context, binding, shortened, "shorter")
    except (errors.OutcomeUnknown, errors.ProviderUnreachable, errors.ProviderRefused) as error:
        if (await get_visible_binding(context)).unbind_requested_at is None:
            return await _refused_form(context, "unbind", error)
    except BindingsError as error:
        return await _refused_form(context, "unbind", error)
    return context.redirect(f"/bindings/{binding.id}")


@post("/bindings/{binding_id:str}/replace", permissions=(Permission.BIND,), status_code=200)
async def replace(request: Request[Any, Any, Any]) -> PageResponse:
    """End the binding, bind its successor, and redirect to the page of that.

    A form that is sent twice replaces once: the second is refused with the successor's id. The page of the binding
    is returned if its own end is not confirmed, or with the error if there is no successor.
    """
    context = PageContext(request)
    binding, principal = await get_visible_binding(context), context.require_principal
    own_only, call = not context.has_permission(Permission.READ), context.service.replace_request
    try:
        changes = end_forms.replacement(context.form)
        result = await binds.run_bind(context.app_state, principal, call, binding.id, changes, own_only=own_only)
    except errors.OutcomeUnknown as unknown:
        if unknown.binding.id == binding.id:
            return await _refused_form(context, "replace", unknown)
        return context.redirect(f"/bindings/{unknown.binding.id}")
    except BindingsError as error:
        return await _refused_form(context, "replace", error)
    return context.redirect(f"/bindings/{result.binding.id}")


@get("/bindings/{binding_id:str}/raw", permissions=OWN_OR_ALL)
async def raw(request: Request[Any, Any, Any]) -> PageResponse:
    """Return the binding and its events as JSON, in the format of the API."""
    context = PageContext(request)
    binding, events = await _binding_and_events(context)
    content = {"binding": serializers.binding_json(binding, context.require_principal), "events": events}
    body = serializers.json_response(content).content
    return context.add_headers(Response(body, media_type=MediaType.JSON))


@post("/bindings/{binding_id:str}/export", permissions=OWN_OR_ALL, status_code=200)
async def export(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the events of a binding; events contain no phones."""
    context = PageContext(request)
    binding, events = await _binding_and_events(context)

    def read(_service: BindingService, _reason: str | None) -> Generator[Sequence[Event], None, None]:
        yield events

    return await stream_export(
        context,
        view="history of a binding",
        filters={"binding_id": binding.id},
        columns=field_names(Event),
        read=read,
    )


async def get_visible_binding(context: PageContext) -> Binding:
    """Return the binding that the path names. Raise `NotFound` if the principal may not see it."""
    binding_id = validation.binding_id(context.request.path_params["binding_id"])
    binding = await context.run_read(lambda service: service.get(binding_id))
    if not context.require_principal.can_view(binding):
        raise errors.NotFound(binding_id=binding_id)
    context.request.scope["state"]["binding_id"] = binding_id
    return binding


async def _binding_and_events(context: PageContext) -> tuple[Binding, list[Event]]:
    binding = await get_visible_binding(context)
    history = await context.run_read(lambda service: service.history(binding.id))
    return binding, context.require_principal.redact_history(history)


def _require_moved(context: PageContext, before: Binding, after: Binding, comparative: str) -> None:
    """Raise `InvalidRequest` if a call has not moved the end, because the time should be longer or shorter."""
    if after.expires_at is not None and after.expires_at == before.expires_at:
        end = time_zones.format_instant(after.expires_at, context.zone)
        message = f"must be {comparative}: the promised end is {end}; nothing was changed"
        raise InvalidRequest.of_field("amount", message)


async def _refused_form(context: PageContext, name: str, error: BindingsError) -> PageResponse:
    """Return the page of the binding as it is now, with the error and what was entered."""
    binding, events = await _binding_and_events(context)
    return await _binding_page(context, binding, events, error=error, entered={name: context.form})


async def _binding_page(
    context: PageContext,
    binding: Binding,
    events: list[Event],
    *,
    error: BindingsError | None = None,
    **values: Any,
) -> PageResponse:
    """Return the page; with the `error` of a form that was sent, if there is one."""
    may_unbind = context.has_permission(Permission.BIND)

    def read(service: BindingService) -> tuple[datetime, end_forms.Obstacles | None, Sequence[Replacement]]:
        now, obstacles = service.runtime.database.clock(), None
        if may_unbind:
            successors = service.get_many([binding.replaced_by] if binding.replaced_by else [])
            successor = next(iter(successors.values()), None)
            obstacles = end_forms.obstacles(service.runtime, binding, successor, now)
        return now, obstacles, service.investigation.replacements(binding, actor=context.actor_filter)

    now, obstacles, replacements = await context.run_read(read)
    defaults: dict[str, Any] = {"entered": {}, "revealed": False, "reason": ""}
    outcome = next((event for event in reversed(events) if event.kind == binding.state), None)
    is_explained = outcome is not None and outcome.kind in (EventKind.FAILED, EventKind.IN_DOUBT)
    return context.render_form(
        "binding.html",
        error,
        binding=binding,
        now=now,
        obstacles=obstacles,
        replacements=replacements,
        linked={replacement.binding.id: replacement.binding for replacement in replacements},
        units=tuple(end_forms.UNITS),
        modes=tuple(Mode),
        may_force=isinstance(error, errors.NoMiddleNumber) and error.predecessor_ended is None,
        failure_code=code_of(outcome.kind, outcome.detail) if outcome is not None and is_explained else None,
        timeline=event_text.timeline(events),
        status_sentence=event_text.status_sentence(binding, now),
        axis=time_axis.axis_for([binding]),
        **defaults | values,
    )
