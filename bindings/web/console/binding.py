"""One binding: what it was, what happened in order, and its phones for a reason that is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get, post

from bindings import errors
from bindings.domain.binding import Event
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names
from bindings.errors import InvalidRequest
from bindings.validation import requests as validation
from bindings.web.api import serializers
from bindings.web.console import event_text, time_axis
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, Reply

if TYPE_CHECKING:
    from bindings.domain.binding import Binding


@get("/bindings/{binding_id:str}", for_=OWN_OR_ALL)
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show a binding, its phones masked."""
    visit = PageContext(request)
    binding, events = await _binding_and_events(visit)
    return _page(visit, binding, events)


@post("/bindings/{binding_id:str}/reveal", for_=(Permission.REVEAL,), status_code=200)
async def reveal(request: Request[Any, Any, Any]) -> Reply:
    """Record why, then show the phones in full, this once: loading the page again asks, and records, again."""
    visit = PageContext(request)
    binding, events = await _binding_and_events(visit)
    try:
        why = validation.reason(visit.form.get("reason", ""))
    except InvalidRequest as refusal:
        return _page(visit, binding, events, status=422, faults=refusal.field_errors)
    await visit.run_read(lambda service: service.reveal([binding.id], reason=why))
    events = await visit.run_read(lambda service: service.history(binding.id))
    return _page(visit, binding, events, revealed=True)


@get("/bindings/{binding_id:str}/raw", for_=OWN_OR_ALL)
async def raw(request: Request[Any, Any, Any]) -> Reply:
    """Show the binding and its events as JSON, as the API does."""
    visit = PageContext(request)
    binding, events = await _binding_and_events(visit)
    shown = {"binding": serializers.binding_json(binding, visit.require_principal), "events": events}
    body = serializers.json_response(shown).content
    return visit.add_headers(Response(body, media_type=MediaType.JSON))


@post("/bindings/{binding_id:str}/export", for_=OWN_OR_ALL, status_code=200)
async def export(request: Request[Any, Any, Any]) -> Reply:
    """Take a binding's events away; they hold no phones."""
    visit = PageContext(request)
    binding, events = await _binding_and_events(visit)
    return await stream_export(
        visit,
        view="history of a binding",
        narrowed={"binding_id": binding.id},
        names=field_names(Event),
        read=lambda _service, _reason: iter(events),
    )


async def get_visible_binding(visit: PageContext) -> Binding:
    """The binding that the address names; `NotFound` where it is not the caller's to see."""
    found_id = validation.binding_id(visit.request.path_params["binding_id"])
    binding = await visit.run_read(lambda service: service.get(found_id))
    if not visit.require_principal.can_view(binding):
        raise errors.NotFound(binding_id=found_id)
    visit.request.scope["state"]["binding_id"] = found_id
    return binding


async def _binding_and_events(visit: PageContext) -> tuple[Binding, list[Event]]:
    binding = await get_visible_binding(visit)

    return binding, serializers.redact_events(
        await visit.run_read(lambda service: service.history(binding.id)), visit.require_principal
    )


def _page(visit: PageContext, binding: Binding, events: list[Event], *, status: int = 200, **values: Any) -> Reply:
    over = binding.expires_at is not None and binding.expires_at <= visit.now
    given: dict[str, Any] = {"faults": (), "revealed": False} | values
    return visit.page(
        "binding.html",
        status=status,
        binding=binding,
        steps=event_text.timeline(events),
        ending=event_text.status_sentence(binding, over=over),
        axis=time_axis.axis_for([binding]),
        **given,
    )
