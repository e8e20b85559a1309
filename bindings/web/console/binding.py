"""The page of one binding: its data, its history, and its full phones if a reason is given and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get, post

from bindings import errors
from bindings.domain.binding import Event, EventKind
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names
from bindings.errors import InvalidRequest
from bindings.store.statistics import code_of
from bindings.validation import requests as validation
from bindings.web.api import serializers
from bindings.web.console import event_text, time_axis
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

if TYPE_CHECKING:
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
        values = {"field_errors": error.field_errors, "reason": context.form.get("reason", "")}
        return await _binding_page(context, binding, events, status=422, **values)
    await context.run_read(lambda service: service.reveal([binding.id], reason=reason))
    return context.set_reveal_cookie(context.redirect(f"/bindings/{binding.id}"), binding.id)


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
    return await stream_export(
        context,
        view="history of a binding",
        narrowed={"binding_id": binding.id},
        columns=field_names(Event),
        read=lambda _service, _reason: iter(events),
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


async def _binding_page(
    context: PageContext, binding: Binding, events: list[Event], *, status: int = 200, **values: Any
) -> PageResponse:
    now = await context.run_read(lambda service: service.runtime.database.clock())
    template_values: dict[str, Any] = {"field_errors": (), "revealed": False, "reason": ""} | values
    outcome = next((event for event in reversed(events) if event.kind == binding.state), None)
    is_explained = outcome is not None and outcome.kind in (EventKind.FAILED, EventKind.IN_DOUBT)
    return context.render(
        "binding.html",
        status=status,
        binding=binding,
        now=now,
        failure_code=code_of(outcome.kind, outcome.detail) if outcome is not None and is_explained else None,
        timeline=event_text.timeline(events),
        status_sentence=event_text.status_sentence(binding, now),
        axis=time_axis.axis_for([binding]),
        **template_values,
    )
