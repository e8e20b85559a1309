"""The search page (Find): by id, reference, request id, phone or middle number, with a time for numbers.

The form is a POST that redirects to a path with a random id; the search itself is stored for an hour, for this
browser only. A name that matches exactly one binding redirects to that binding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.access.investigation import MAX_NAME_MATCHES, NameMatches
from bindings.access.sessions import Search
from bindings.domain.binding import Binding
from bindings.domain.phone import MAX_DIGITS, Phone
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names, to_plain
from bindings.domain.text import has_control_characters
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.validation.fields import phone
from bindings.web.console import number_at, refusals, time_zones
from bindings.web.console.export import stream_export
from bindings.web.console.number_fields import is_middle_number, number_filter
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse
from bindings.web.console.pasted_text import digits_of_number, without_invisible_ends
from bindings.web.phone_questions import record_question

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from bindings.service import BindingService
    from bindings.web.auth import Principal

MIN_NUMBER_DIGITS = 5  # fewer digits are a name, such as the provider's id of a binding
LATEST_BINDINGS = 10
MAX_QUERY_LENGTH = 255


class SearchExpired(errors.NotFound):
    """This search is not available: it is older than an hour, or belongs to another browser. Search again."""


@get("/", permissions=OWN_OR_ALL)
async def home(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the search form, and the latest bindings if the principal may read all."""
    context = PageContext(request)
    latest: tuple[Binding, ...] = ()
    if context.has_permission(Permission.READ):
        latest = (await context.run_read(lambda service: service.search(limit=LATEST_BINDINGS))).data
    return _find_page(context, latest=latest)


def _find_page(
    context: PageContext,
    *,
    status: int = 200,
    refined: Search | None = None,
    latest: tuple[Binding, ...] = (),
    field_errors: tuple[FieldError, ...] = (),
) -> PageResponse:
    """Return the search form, with what was entered in it if it has errors, so that it can be corrected."""
    search_id = context.form.get("search_id")
    return context.render(
        "find.html",
        status=status,
        form_values=context.form,
        search=refined if search_id else None,
        search_id=search_id,
        field_errors=field_errors,
        latest=latest,
    )


@post("/find", permissions=OWN_OR_ALL, status_code=200)
async def find(request: Request[Any, Any, Any]) -> PageResponse:
    """Store the search and redirect to its results, or to the binding if exactly one has the name."""
    context = PageContext(request)
    refined = await _refined_search(context)
    try:
        zone = time_zones.zone(context.form.get("zone", context.zone.name))
        search = _parse_form(context, zone, refined)
        if search.at is not None:
            search = replace(search, at=await number_at.past_instant(context, search.at))
        search = await _resolve_ambiguous_number(context, search)
    except InvalidRequest as error:
        return _find_page(context, status=422, refined=refined, field_errors=error.field_errors)
    if search.number is None and (binding_id := await _single_match(context, str(search.words))) is not None:
        return context.set_zone_cookie(context.redirect(f"/bindings/{binding_id}"), zone)
    token = context.token
    if search.number is not None and context.actor_filter is None:
        await context.run_read(_record_question, context.require_principal, search)
    search_id = await context.run_read(lambda service: service.sessions.save_search(token, search))
    return context.set_zone_cookie(context.redirect(f"/find/{search_id}"), zone)


@get("/find/{search_id:str}", permissions=OWN_OR_ALL)
async def results(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the results of a stored search. Safe to repeat while the search is stored."""
    context = PageContext(request)
    search_id = request.path_params["search_id"]
    search = await load_search(context, search_id)
    if search.number is None:
        return await _matches_page(context, search)
    if search.at is None:
        return context.redirect(f"/find/{search_id}/history")
    return await number_at.answer_page(
        context, search, search_id=search_id, names_path=names_path(search, search_id)
    )


@get("/find/{search_id:str}/names", permissions=OWN_OR_ALL)
async def results_by_name(request: Request[Any, Any, Any]) -> PageResponse:
    """Show what has the entered number as its name: a reference may be a number that is in use, too."""
    context = PageContext(request)
    return await _matches_page(context, await load_search(context, request.path_params["search_id"]))


async def _matches_page(context: PageContext, search: Search) -> PageResponse:
    if search.words is None:
        raise errors.NotFound("this search was for a number only")
    name, actor = search.words, context.actor_filter
    matches = await context.run_read(lambda service: service.investigation.find_by_name(name, actor=actor))
    path = context.request.url.path
    return context.render(
        "search_matches.html",
        search=search,
        path=path,
        matches=matches,
        max_matches=MAX_NAME_MATCHES,
        refusals=refusals.rows(context, matches.refusals),
    )


@post(
    ["/find/{search_id:str}/export", "/find/{search_id:str}/names/export"], permissions=OWN_OR_ALL, status_code=200
)
async def export(request: Request[Any, Any, Any]) -> PageResponse:
    """Export the results: each binding, with its relation to the search."""
    context = PageContext(request)
    search = await load_search(context, request.path_params["search_id"])
    if request.url.path.endswith("/names/export"):
        search = Search(words=search.words)
    number, at, actor = search.number, search.at, context.actor_filter

    def read(service: BindingService, reason: str | None) -> Generator[Sequence[dict[str, Any]], None, None]:
        if number is None or at is None:
            matches = service.investigation.find_by_name(str(search.words), actor=actor)
            rows = [(binding, "named") for binding in matches.bindings]
        else:
            answer = service.investigation.number_at(number, at=at, party=search.party, actor=actor)
            rows = number_at.bindings_with_relation(answer)
        if reason is not None and rows:
            service.reveal([binding.id for binding, _ in rows], reason=reason, what="export of search results")
        fields_of = context.require_principal.binding_fields
        yield [{"relation": relation} | fields_of(binding) for binding, relation in rows]

    filters: dict[str, Any] = {"words": search.words}
    if number is not None:
        filters = await number_filter(context, number) | {"party": search.party, "at": at}
    columns = ["relation", *field_names(Binding)]
    return await stream_export(
        context, view="search results", filters=to_plain(filters), columns=columns, read=read
    )


async def load_search(context: PageContext, search_id: str) -> Search:
    """Return the search that this browser stored under the id. Raise `SearchExpired` if there is none."""
    token = context.token
    search = await context.run_read(lambda service: service.sessions.get_search(token, search_id))
    if search is None:
        raise SearchExpired
    return search


def names_path(search: Search, search_id: str) -> str | None:
    """Return the path of the page of what has the number as its name, or None if nothing has."""
    return None if search.words is None else f"/find/{search_id}/names"


async def _refined_search(context: PageContext) -> Search:
    """Return the search that this form refines: empty fields keep its values, so the page needs no phone in it."""
    search_id = context.form.get("search_id")
    return await load_search(context, search_id) if search_id else Search()


def _parse_form(context: PageContext, zone: time_zones.Zone, refined: Search) -> Search:
    """Return the search that the form describes. Raise `InvalidRequest` with all field errors."""
    form = context.form
    field_errors: list[FieldError] = []
    search = _parse_query(without_invisible_ends(form.get("q", "")), refined, field_errors)
    party = refined.party if not form.get("party") and not form.get("any_party") else None
    if form.get("party"):
        party = _parse_number(form["party"], "party", field_errors)
    try:
        at = time_zones.parse(form.get("time", ""), zone, context.now)
    except InvalidRequest as error:
        field_errors += error.field_errors
        at = None
    if field_errors:
        raise InvalidRequest(field_errors)
    return search if search.number is None else replace(search, at=at, party=party)


def _parse_query(query: str, refined: Search, field_errors: list[FieldError]) -> Search:
    if not query and (refined.number is not None or refined.words is not None):
        return Search(words=refined.words, number=refined.number)
    digits = digits_of_number(query) or ""
    if MIN_NUMBER_DIGITS <= len(digits) <= MAX_DIGITS:
        return Search(number=Phone(digits))
    if not query or len(query) > MAX_QUERY_LENGTH:
        message = f"is required: an id, a reference or a number, of at most {MAX_QUERY_LENGTH} characters"
        field_errors.append(FieldError("q", message))
    elif has_control_characters(query):
        field_errors.append(FieldError("q", "must not contain control characters"))
    return Search(words=query)


def _parse_number(text: str, field: str, field_errors: list[FieldError]) -> Phone | None:
    try:
        return phone(digits_of_number(text) or text)
    except ValueError as error:
        field_errors.append(FieldError(field, str(error)))
        return None


async def _resolve_ambiguous_number(context: PageContext, search: Search) -> Search:
    """Return a search by name instead if nothing has the number and a binding or a refused bind has the name.

    If both exist, the search is by number and by name: the page of the number links to that of the name.

    A middle number may begin with 0, a phone may not: `InvalidRequest` says so if nothing has what was entered.
    """
    query = without_invisible_ends(context.form.get("q", ""))
    number, actor = search.number, context.actor_filter
    if number is None or not query:
        return search

    def read(service: BindingService) -> Search:
        investigation = service.investigation
        matches = investigation.find_by_name(query, actor=actor)
        if (
            investigation.number_history(number, actor=actor, limit=1).data
            or investigation.holds_of(number, actor=actor)
            or investigation.refusals_of(number, actor=actor)
        ):
            has_name = matches and not matches.by_beginning
            return replace(search, words=query if has_name else None)
        if matches:
            return Search(words=query)
        try:
            phone(number)
        except ValueError as error:
            raise InvalidRequest.of_field("q", str(error)) from None
        return search

    return await context.run_read(read)


def _record_question(service: BindingService, principal: Principal, search: Search) -> None:
    """Record a reader's search by a phone; one by a middle number is recorded only if it has a party.

    Every phone of the search must match: one that is known to match would make every search with it a match.
    """
    number, at, party = search.number, search.at, search.party
    if number is None:
        return
    investigation = service.investigation
    history = investigation.number_history(number, limit=1).data
    matches_number = bool(history or investigation.holds_of(number) or investigation.refusals_of(number))
    if at is None or party is None:
        if not is_middle_number(number, list(history)):
            record_question(service, principal, "find", has_match=matches_number)
        return
    answer = investigation.number_at(number, at=at, party=party)
    matches_party = bool(answer.trace.has_match(party) or answer.previous_binding or answer.next_binding)
    record_question(service, principal, "find", has_match=matches_number and matches_party)


async def _single_match(context: PageContext, name: str) -> str | None:
    """Return the id of the binding if exactly one has this name and no refused bind has it, else None."""
    actor = context.actor_filter

    def read(service: BindingService) -> NameMatches:
        try:
            binding = service.get(validation.binding_id(name))
        except errors.NotFound:
            return service.investigation.find_by_name(name, actor=actor)
        return NameMatches(bindings=(binding,) if actor in (None, binding.actor) else ())

    matches = await context.run_read(read)
    refused = matches.refusals or matches.refusal_events
    is_single = len(matches.bindings) == 1 and not refused and not matches.by_beginning
    return matches.bindings[0].id if is_single else None
