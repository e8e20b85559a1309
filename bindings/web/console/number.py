"""Everything that one number was used for, on one time axis; what is odd about it; who was shown it in full.

The number is named by the binding that has it, or by a search: it never stands in an address itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.domain import overlaps
from bindings.domain.binding import Binding
from bindings.domain.phone import Phone
from bindings.domain.serialization import field_names
from bindings.validation.fields import MAX_LIMIT
from bindings.web.console import time_axis
from bindings.web.console.binding import get_visible_binding
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, Reply
from bindings.web.console.search import is_middle_number, load_search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.domain.binding import Event, Page
    from bindings.service import BindingService

PER_PAGE = 50
NUMBERS = ("phone_a", "phone_b", "middle_number_a", "middle_number_b")


@get("/bindings/{binding_id:str}/numbers/{which:str}", for_=OWN_OR_ALL)
async def of_binding(request: Request[Any, Any, Any]) -> Reply:
    """Show the history of a number that a binding has."""
    visit = PageContext(request)
    number = await number_of(visit)
    return await _page(visit, number)


@get("/find/{search_id:str}/history", for_=OWN_OR_ALL)
async def of_search(request: Request[Any, Any, Any]) -> Reply:
    """Show the history of a number that was looked for."""
    visit = PageContext(request)
    return await _page(visit, await _searched(visit))


async def _searched(visit: PageContext) -> Phone:
    wanted = await load_search(visit, visit.request.path_params["search_id"])
    if wanted.number is None:
        raise errors.NotFound("this search was for no number")
    return wanted.number


@post("/bindings/{binding_id:str}/numbers/{which:str}/export", for_=OWN_OR_ALL, status_code=200)
async def export_of_binding(request: Request[Any, Any, Any]) -> Reply:
    """Take a number's whole history away."""
    visit = PageContext(request)
    number, path = await number_of(visit), request.path_params
    return await _export(visit, number, {"binding_id": path["binding_id"], "which": path["which"]})


@post("/find/{search_id:str}/history/export", for_=OWN_OR_ALL, status_code=200)
async def export_of_search(request: Request[Any, Any, Any]) -> Reply:
    """Take the whole history of a number that was looked for away."""
    visit = PageContext(request)
    return await _export(visit, await _searched(visit), {})


async def _export(visit: PageContext, number: Phone, narrowed: dict[str, Any]) -> Reply:
    actor = visit.actor_filter

    def read(service: BindingService, reason: str | None) -> Iterator[Binding]:
        cursor, more = None, True
        while more:
            page = service.investigation.number_history(number, actor=actor, cursor=cursor, limit=MAX_LIMIT)
            if reason is not None and page.data:
                service.reveal([one.id for one in page.data], reason=reason, what="export of a number's history")
            yield from page.data
            cursor, more = page.next_cursor, page.next_cursor is not None

    return await stream_export(
        visit,
        view="number history",
        narrowed=narrowed | {"number": str(number)},
        names=field_names(Binding),
        read=read,
    )


async def number_of(visit: PageContext) -> Phone:
    """The number that an address names by a binding and one of its fields."""
    binding = await get_visible_binding(visit)
    which = visit.request.path_params["which"]
    number = getattr(binding, which) if which in NUMBERS else None
    if number is None:
        raise errors.NotFound("this binding has no such number")
    return number if isinstance(number, Phone) else Phone(number)


async def _page(visit: PageContext, number: Phone) -> Reply:
    cursor = visit.request.query_params.get("cursor")

    def ask(service: BindingService) -> tuple[Page[Binding], list[Event]]:
        page = service.investigation.number_history(
            number, actor=visit.actor_filter, cursor=cursor, limit=PER_PAGE
        )
        return page, service.investigation.reveals_of([one.id for one in page.data])

    page, looks = await visit.run_read(ask)
    return visit.page(
        "number.html",
        number=number,
        is_middle_number=is_middle_number(number, list(page.data)),
        found=page.data,
        by_id={one.id: one for one in page.data},
        next_cursor=page.next_cursor,
        axis=time_axis.axis_for(page.data),
        odd=overlaps.find_anomalies(page.data),
        looks=looks,
        revealed=False,
    )
