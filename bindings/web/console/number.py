"""The history of a number: its bindings on one time axis, anomalies among them, and the reveals of their phones.

The path names the number by a binding that has it, or by a search: a URL never contains the number itself.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.domain import overlaps
from bindings.domain.binding import Binding
from bindings.domain.conflict import ConflictRule, Policy
from bindings.domain.overlaps import Overlap, Reuse
from bindings.domain.serialization import field_names, instant
from bindings.domain.trace import earliest_start
from bindings.validation.fields import MAX_LIMIT, position_after
from bindings.web.console import refusals, time_axis, time_zones
from bindings.web.console.export import stream_export
from bindings.web.console.number_fields import binding_number, is_middle_number, number_filter
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse
from bindings.web.console.search import load_search, names_path

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from bindings.access.investigation import NumberCounts
    from bindings.access.sessions import Search
    from bindings.domain.binding import Event, Page, RefusedBind
    from bindings.domain.hold import PhoneHold
    from bindings.domain.phone import Phone
    from bindings.service import BindingService

PER_PAGE = 50


OF_BINDING = "/bindings/{binding_id:str}/numbers/{number_field:str}"
OF_SEARCH = "/find/{search_id:str}/history"


@get(OF_BINDING, permissions=OWN_OR_ALL)
async def history_of_binding_number(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the history of a number of a binding."""
    context = PageContext(request)
    number, _ = await binding_number(context)
    return await _history_page(context, number, unbind_path=f"{request.url.path}/unbind")


@get(OF_SEARCH, permissions=OWN_OR_ALL)
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


@post([OF_BINDING, OF_SEARCH], permissions=OWN_OR_ALL, status_code=200)
async def start_at_time(request: Request[Any, Any, Any]) -> PageResponse:
    """Check the time of the form, and redirect to the bindings that were held until before it. Safe to repeat."""
    context = PageContext(request)
    before = time_zones.parse(context.form.get("before", ""), context.zone, context.now, date_alone=True)
    return context.redirect(request.url.path + ("" if before is None else f"?before={instant(before)}"))


@post(f"{OF_BINDING}/export", permissions=OWN_OR_ALL, status_code=200)
async def export_of_binding_number(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the whole history of a number of a binding."""
    context = PageContext(request)
    (number, _), path = await binding_number(context), request.path_params
    return await _export(context, number, {"binding_id": path["binding_id"], "which": path["number_field"]})


@post(f"{OF_SEARCH}/export", permissions=OWN_OR_ALL, status_code=200)
async def export_of_search(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the whole history of a number that was searched for."""
    context = PageContext(request)
    search = await load_search(context, request.path_params["search_id"])
    return await _export(context, _number_of(search), {})


async def _export(context: PageContext, number: Phone, filters: dict[str, Any]) -> PageResponse:
    actor = context.actor_filter

    def read(service: BindingService, reason: str | None) -> Generator[Sequence[Binding], None, None]:
        cursor, has_more = None, True
        while has_more:
            page = service.investigation.number_history(number, actor=actor, cursor=cursor, limit=MAX_LIMIT)
            if reason is not None and page.data:
                ids = [binding.id for binding in page.data]
                service.reveal(ids, reason=reason, what="export of a number's history")
            yield page.data
            cursor, has_more = page.next_cursor, page.next_cursor is not None

    return await stream_export(
        context,
        view="number history",
        filters=filters | await number_filter(context, number),
        columns=field_names(Binding),
        read=read,
    )


def _number_of(search: Search) -> Phone:
    if search.number is None:
        raise errors.NotFound("this search was not for a number")
    return search.number


@dataclass(frozen=True, kw_only=True, slots=True)
class AnomalyGroup:
    """Anomalies of a page that have the same explanation, the newest first."""

    title: str
    explanation: str
    is_allowed: bool
    anomalies: list[Overlap | Reuse]


_REUSE = (
    "Quick re-use",
    "A middle number passed to another pair within ten minutes of a binding's end; the earlier pair may call it.",
    False,
)
_FORBIDDEN = {
    ConflictRule.AXB: "an AXB binding of a phone forbids every other bind of it",
    ConflictRule.SAME_PAIR: "two phones may have one binding with each other at a time",
    ConflictRule.STRICT: "the policy strict allows a phone one binding at a time",
    ConflictRule.NOT_CONFIRMED: "the AXXB binding was not confirmed when the AXB one was requested",
}
_ALLOWED = (
    "Allowed overlap",
    "The policy literal allows another pair beside an AXXB binding; an AXB one only once that is confirmed.",
    True,
)


def _anomaly_groups(anomalies: Iterable[Overlap | Reuse]) -> list[AnomalyGroup]:
    """Return the anomalies by their explanation, allowed overlaps last."""
    groups: dict[tuple[str, str, bool], list[Overlap | Reuse]] = {}
    for anomaly in anomalies:
        groups.setdefault(_explanation(anomaly), []).append(anomaly)
    listed = [
        AnomalyGroup(title=title, explanation=explanation, is_allowed=is_allowed, anomalies=group[::-1])
        for (title, explanation, is_allowed), group in groups.items()
    ]
    return sorted(listed, key=lambda group: group.is_allowed)


def _explanation(anomaly: Overlap | Reuse) -> tuple[str, str, bool]:
    if isinstance(anomaly, Reuse):
        return _REUSE
    if anomaly.rule is None:
        return _ALLOWED
    return "Overlap", f"The conflict policy in force does not allow it: {_FORBIDDEN[anomaly.rule]}.", False


async def _history_page(
    context: PageContext, number: Phone, *, unbind_path: str, names_path: str | None = None
) -> PageResponse:
    """Return the page of a number. `names_path` leads to what has the number as its name, if anything has."""
    parameters = context.request.query_params
    cursor = parameters.get("cursor")
    before = time_zones.parse(parameters.get("before", ""), context.zone, context.now)
    if before is not None and cursor is None:
        cursor = position_after(before, str(uuid.UUID(int=0)))

    def read(
        service: BindingService,
    ) -> tuple[Page[Binding], tuple[PhoneHold, ...], tuple[RefusedBind, ...], list[Event], NumberCounts]:
        investigation, actor = service.investigation, context.actor_filter
        page = investigation.number_history(number, actor=actor, cursor=cursor, limit=PER_PAGE)
        holds = investigation.holds_of(number, actor=actor)
        refused = investigation.refusals_of(number, actor=actor)
        reveals = [] if actor is not None else investigation.reveals_of(page.data)
        return page, holds, refused, reveals, investigation.count_number(number, actor=actor)

    page, holds, refused, reveals, counts = await context.run_read(read)
    anomalies = overlaps.find_anomalies(page.data, Policy(context.app_state.service.settings.conflict_policy))
    bindings = sorted(page.data, key=lambda binding: (earliest_start(binding), binding.id), reverse=True)
    axis = time_axis.axis_for(bindings)
    return context.render(
        "number.html",
        before=before,
        counts=counts,
        number=number,
        names_path=names_path,
        unbind_path=unbind_path,
        is_middle_number=is_middle_number(number, list(page.data)),
        bindings=bindings,
        holds=holds,
        by_id={binding.id: binding for binding in page.data},
        next_cursor=page.next_cursor,
        axis=axis,
        rows=[] if axis is None else [(binding, axis.bar(binding)) for binding in bindings],
        anomaly_groups=_anomaly_groups(anomalies),
        refusals=refusals.rows(context, refused),
        reveals=reveals,
        revealed=False,
    )
