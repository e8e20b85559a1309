"""Who had a number at a time: the answer with its evidence, its permanent link, and the statement for a file.

The link names the number by a binding that has it, and the party by its side of that binding: it has no phone,
and lasts as long as the binding is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Request, get, post

from bindings import errors
from bindings.access.sessions import Search
from bindings.domain.roles import Permission
from bindings.domain.serialization import instant
from bindings.domain.trace import evidence
from bindings.errors import InvalidRequest
from bindings.validation import fields
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.console import event_text, time_zones
from bindings.web.console.number_fields import PHONE_FIELDS, binding_number, field_of, is_middle_number
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.access.investigation import NumberAt
    from bindings.domain.binding import Binding, TraceHolder
    from bindings.domain.phone import Phone
    from bindings.sealing.seals import Seal
    from bindings.service import BindingService
    from bindings.web.console.event_text import TimelineEntry

PATH = "/bindings/{binding_id:str}/numbers/{number_field:str}/at"
MAX_HOLDERS = 100
MAX_STATED = 20  # holders of a statement, each with its events


@get(PATH, permissions=OWN_OR_ALL)
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show who had a number of a binding at the time of the address."""
    context = PageContext(request)
    return await answer_page(context, await _search(context))


async def answer_page(
    context: PageContext, search: Search, *, search_id: str | None = None, names_path: str | None = None
) -> PageResponse:
    """Return the answer to a search by a number and a time."""
    number_at = await context.run_read(lambda service: _read(service, context, search))
    trace, bindings = number_at.trace, _bindings(number_at)
    return context.render(
        "number_at.html",
        search=search,
        search_id=search_id,
        names_path=names_path,
        is_middle_number=_is_middle_number(search, bindings),
        number_at=number_at,
        holders=trace.holders[:MAX_HOLDERS],
        hidden_holders=len(trace.holders) - MAX_HOLDERS,
        holds=trace.holds,
        evidence=evidence,
        link=_link(search, bindings),
        link_without_party=_link(Search(number=search.number, at=search.at), bindings),
        history_path=f"/find/{search_id}/history" if search_id else context.request.url.path.removesuffix("/at"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedHolder:
    """A holder in a statement, with its events; `sealed` of them are covered by the last seal."""

    binding: Binding
    certainty: str
    timeline: list[TimelineEntry]
    sealed: int


@post(PATH, permissions=OWN_OR_ALL, status_code=200)
async def statement(request: Request[Any, Any, Any]) -> PageResponse:
    """Return the answer for a file: who asked, when and why, the events of each holder, and the last seal.

    Not safe to repeat: each request with phones in full records a reveal.
    """
    context = PageContext(request)
    search = await _search(context)
    in_full = bool(context.form.get("in_full"))
    reason = validation.reason(context.form.get("reason", ""))
    if in_full and not context.has_permission(Permission.REVEAL):
        raise problems.Forbidden("the role of your key does not see full phone numbers; nothing was shown")

    def read(service: BindingService) -> tuple[NumberAt, Seal | None, list[StatedHolder]]:
        number_at, seal = _read(service, context, search), service.last_seal()
        stated = number_at.trace.holders[:MAX_STATED]
        if in_full and stated:
            service.reveal([holder.id for holder in stated], reason=reason, what="statement of who had a number")
        return number_at, seal, [_stated(service, context, seal, holder) for holder in stated]

    number_at, seal, stated = await context.run_read(read)
    bindings = _bindings(number_at)
    return context.render(
        "statement.html",
        search=search,
        number_at=number_at,
        is_middle_number=_is_middle_number(search, bindings),
        stated=stated,
        hidden_holders=len(number_at.trace.holders) - MAX_STATED,
        reason=reason,
        revealed=in_full,
        seal=seal,
        evidence=evidence,
        link=_link(search, bindings),
    )


def bindings_with_relation(number_at: NumberAt) -> list[tuple[Binding, str]]:
    """Return holders with their certainty, then near misses and nearest bindings with their relation."""
    rows = [(holder.binding, str(holder.certainty)) for holder in number_at.trace.holders]
    rows += [(miss.binding, miss.relation) for miss in number_at.trace.near_misses]
    nearest = ((number_at.previous_binding, "ended"), (number_at.next_binding, "began"))
    return rows + [(binding, relation) for binding, relation in nearest if binding is not None]


async def _search(context: PageContext) -> Search:
    """Return the search that the address describes: a number and a party of the binding, and a time."""
    parameters = context.request.query_params
    number, binding = await binding_number(context)
    party, field = None, parameters.get("party")
    if field is not None:
        if field not in PHONE_FIELDS:
            raise InvalidRequest.of_field("party", f"must be {' or '.join(PHONE_FIELDS)}")
        party = getattr(binding, field)
    at = time_zones.parse(parameters.get("time", ""), context.zone, context.now)
    if at is None:
        raise InvalidRequest.of_field("time", "is required, such as 2026-11-23T14:32:00Z")
    return Search(number=number, party=party, at=await past_instant(context, at))


async def past_instant(context: PageContext, at: datetime) -> datetime:
    """Return the time that was entered, if it has passed. Raise `InvalidRequest` for a later one."""
    return await context.run_read(lambda service: service.investigation.past_instant(at, field="time"))


def _read(service: BindingService, context: PageContext, search: Search) -> NumberAt:
    number, at = _number_and_time(search)
    return service.investigation.number_at(number, at=at, party=search.party, actor=context.actor_filter)


def _number_and_time(search: Search) -> tuple[Phone, datetime]:
    if search.number is None or search.at is None:
        raise errors.NotFound("this search has no number or no time")
    return search.number, search.at


def _bindings(number_at: NumberAt) -> list[Binding]:
    """Return every binding of the answer, those that had the number first."""
    listed = [binding for binding, _ in bindings_with_relation(number_at)]
    return listed + [holder.binding for holder in number_at.trace.other_holders]


def _is_middle_number(search: Search, bindings: Sequence[Binding]) -> bool:
    return search.number is not None and is_middle_number(search.number, bindings)


def _link(search: Search, bindings: Sequence[Binding]) -> str | None:
    """Return the permanent address of the answer, or None if no binding of it has the number and the party."""
    number, at = _number_and_time(search)
    for binding in bindings:
        field = field_of(binding, number)
        party = None if search.party is None else field_of(binding, search.party)
        if field is None or (search.party is not None and party not in PHONE_FIELDS):
            continue
        query = {"time": instant(at)} | ({} if party is None else {"party": party})
        return f"/bindings/{binding.id}/numbers/{field}/at?{urlencode(query)}"
    return None


def _stated(service: BindingService, context: PageContext, seal: Seal | None, holder: TraceHolder) -> StatedHolder:
    history = context.require_principal.redact_history(service.history(holder.binding.id))
    sealed = [event for event in history if seal is not None and fields.feed_position(event.cursor) <= seal.end]
    return StatedHolder(
        binding=holder.binding,
        certainty=holder.certainty,
        timeline=event_text.timeline(history),
        sealed=len(sealed),
    )
