"""The history of a number: its bindings on one time axis, anomalies among them, and the reveals of their phones.

The path names the number by a binding that has it, or by a search: a URL never contains the number itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.domain import overlaps
from bindings.domain.binding import Binding
from bindings.domain.conflict import Policy
from bindings.domain.overlaps import Overlap, Reuse
from bindings.domain.phone import Phone
from bindings.domain.serialization import field_names
from bindings.domain.trace import earliest_start
from bindings.validation.fields import MAX_LIMIT
from bindings.web.console import refusals, time_axis
from bindings.web.console.binding import get_visible_binding
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse
from bindings.web.console.search import is_middle_number, load_search, names_path, number_filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.access.sessions import Search
    from bindings.domain.binding import Event, Page, RefusedBind
    from bindings.domain.hold import PhoneHold
    from bindings.service import BindingService

PER_PAGE = 50
NUMBER_FIELDS = ("phone_a", "phone_b", "middle_number_a", "middle_number_b")


@get("/bindings/{binding_id:str}/numbers/{number_field:str}", permissions=OWN_OR_ALL)
async def history_of_binding_number(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the history of a number of a binding."""
    context = PageContext(request)
    return await _history_page(context, await binding_number(context), unbind_path=f"{request.url.path}/unbind")


@get("/find/{search_id:str}/history", permissions=OWN_OR_ALL)
async def history_of_search(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the history of a number that was searched for."""
    context = PageContext(request)
    search_id = request.path_params["search_id"]
    search = await load_search(context, search_id)
    return await _history_page(
        context,
        _number_of(search),
        names_path=names_path(search, search_id),
        unbind_path=f"/find/{search_id}/unbind",
    )


@post("/bindings/{binding_id:str}/numbers/{number_field:str}/export", permissions=OWN_OR_ALL, status_code=200)
async def export_of_binding_number(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the whole history of a number of a binding."""
    context = PageContext(request)
    number, path = await binding_number(context), request.path_params
    return await _export(context, number, {"binding_id": path["binding_id"], "which": path["number_field"]})


@post("/find/{search_id:str}/history/export", permissions=OWN_OR_ALL, status_code=200)
async def export_of_search(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the whole history of a number that was searched for."""
    context = PageContext(request)
    search = await load_search(context, request.path_params["search_id"])
    return await _export(context, _number_of(search), {})


async def binding_number(context: PageContext) -> Phone:
    """Return the number that the path names by a binding and a field. Raise `NotFound` if there is none."""
    binding = await get_visible_binding(context)
    number_field = context.request.path_params["number_field"]
    number = getattr(binding, number_field) if number_field in NUMBER_FIELDS else None
    if number is None:
        raise errors.NotFound("this binding has no such number")
    return number if isinstance(number, Phone) else Phone(number)


async def _export(context: PageContext, number: Phone, narrowed: dict[str, Any]) -> PageResponse:
    actor = context.actor_filter

    def read(service: BindingService, reason: str | None) -> Iterator[Binding]:
        cursor, has_more = None, True
        while has_more:
            page = service.investigation.number_history(number, actor=actor, cursor=cursor, limit=MAX_LIMIT)
            if reason is not None and page.data:
                ids = [binding.id for binding in page.data]
                service.reveal(ids, reason=reason, what="export of a number's history")
            yield from page.data
            cursor, has_more = page.next_cursor, page.next_cursor is not None

    return await stream_export(
        context,
        view="number history",
        narrowed=narrowed | await number_filter(context, number),
        columns=field_names(Binding),
        read=read,
    )


def _number_of(search: Search) -> Phone:
    if search.number is None:
        raise errors.NotFound("this search was not for a number")
    return search.number


def _is_allowed_overlap(anomaly: Overlap | Reuse) -> bool:
    return isinstance(anomaly, Overlap) and anomaly.allowed


async def _history_page(
    context: PageContext, number: Phone, *, unbind_path: str, names_path: str | None = None
) -> PageResponse:
    """Return the page of a number. `names_path` leads to what has the number as its name, if anything has."""
    cursor = context.request.query_params.get("cursor")

    def read(
        service: BindingService,
    ) -> tuple[Page[Binding], tuple[PhoneHold, ...], tuple[RefusedBind, ...], list[Event]]:
        investigation, actor = service.investigation, context.actor_filter
        page = investigation.number_history(number, actor=actor, cursor=cursor, limit=PER_PAGE)
        holds = investigation.holds_of(number, actor=actor)
        refused = investigation.refusals_of(number, actor=actor)
        reveals = [] if actor is not None else investigation.reveals_of(page.data)
        return page, holds, refused, reveals

    page, holds, refused, reveals = await context.run_read(read)
    anomalies = overlaps.find_anomalies(page.data, Policy(context.app_state.service.settings.conflict_policy))
    return context.render(
        "number.html",
        number=number,
        names_path=names_path,
        unbind_path=unbind_path,
        is_middle_number=is_middle_number(number, list(page.data)),
        bindings=sorted(page.data, key=lambda binding: (earliest_start(binding), binding.id), reverse=True),
        holds=holds,
        by_id={binding.id: binding for binding in page.data},
        next_cursor=page.next_cursor,
        axis=time_axis.axis_for(page.data),
        anomalies=[anomaly for anomaly in anomalies if not _is_allowed_overlap(anomaly)],
        allowed_overlaps=list(filter(_is_allowed_overlap, anomalies)),
        refusals=refusals.rows(context, refused),
        reveals=reveals,
        revealed=False,
    )
