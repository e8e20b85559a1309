"""Find: one box for an id, a reference, a request, a phone or a middle number, with a time where it matters.

The form is a POST, its answer a redirect to an address without meaning: what was looked for is kept for an hour
for this browser alone. A word that names one binding leads straight to it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.access.investigation import NameMatches
from bindings.access.sessions import Search
from bindings.domain.binding import Binding
from bindings.domain.phone import MAX_DIGITS, Phone
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names, fields, to_plain
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.web.console import time_zones
from bindings.web.console.export import stream_export
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.access.investigation import NumberAt
    from bindings.service import BindingService

NUMBER = re.compile(r"\+?[0-9][0-9 ().-]*\Z")
DECORATION = re.compile(r"[ ().-]")
SHORTEST_NUMBER = 5  # shorter digits are a name, such as the provider's id of a binding
LATEST = 10
MOST_SHOWN = 100
LONGEST = 255


class SearchExpired(errors.NotFound):
    """This search is over: it was another browser's, or is older than an hour. Ask again."""


@get("/", for_=OWN_OR_ALL)
async def home(request: Request[Any, Any, Any]) -> Reply:
    """Show the box, and for readers what came last."""
    visit = PageContext(request)
    latest: tuple[Binding, ...] = ()
    if visit.may(Permission.READ):
        latest = (await visit.run_read(lambda service: service.search(limit=LATEST))).data
    return visit.page("find.html", typed={}, faults=(), latest=latest)


@post("/find", for_=OWN_OR_ALL, status_code=200)
async def find(request: Request[Any, Any, Any]) -> Reply:
    """Keep what is looked for, and lead to its answer."""
    visit = PageContext(request)
    try:
        zone = time_zones.zone(visit.form.get("zone", visit.zone.name))
        wanted = await _resolve_ambiguous_number(
            visit, _parse_form(visit.form, zone, await _refined_search(visit), visit)
        )
    except InvalidRequest as refusal:
        typed = {name: visit.form.get(name, "") for name in ("time", "zone")}
        return visit.page("find.html", status=422, typed=typed, faults=refusal.field_errors, latest=())
    if wanted.words is not None and (only := await _single_match(visit, wanted.words)) is not None:
        return visit.set_zone_cookie(visit.redirect(f"/bindings/{only}"), zone)
    token = visit.token
    search_id = await visit.run_read(lambda service: service.sessions.save_search(token, wanted))
    return visit.set_zone_cookie(visit.redirect(f"/find/{search_id}"), zone)


@get("/find/{search_id:str}", for_=OWN_OR_ALL)
async def found(request: Request[Any, Any, Any]) -> Reply:
    """Show the answer; the same page as often as it is asked for, while it is kept."""
    visit = PageContext(request)
    search_id = request.path_params["search_id"]
    wanted = await load_search(visit, search_id)
    if wanted.number is None:
        named = await visit.run_read(
            lambda service: service.investigation.find_by_name(str(wanted.words), actor=visit.actor_filter)
        )
        return visit.page("search_matches.html", wanted=wanted, search_id=search_id, named=named)
    if wanted.at is None:
        return visit.redirect(f"/find/{search_id}/history")
    number, at, party = wanted.number, wanted.at, wanted.party
    behind = await visit.run_read(
        lambda service: service.investigation.number_at(number, at=at, party=party, actor=visit.actor_filter)
    )
    holders = behind.trace.holders
    everybody = [one for one, _ in _related(behind)]
    return visit.page(
        "number_at.html",
        wanted=wanted,
        search_id=search_id,
        is_middle_number=is_middle_number(number, everybody),
        behind=behind,
        holders=holders[:MOST_SHOWN],
        more=len(holders) - MOST_SHOWN,
    )


@post("/find/{search_id:str}/export", for_=OWN_OR_ALL, status_code=200)
async def export(request: Request[Any, Any, Any]) -> Reply:
    """Take the answer away: each binding, and how it stands to the instant that was asked about."""
    visit = PageContext(request)
    wanted = await load_search(visit, request.path_params["search_id"])
    number, at, actor = wanted.number, wanted.at, visit.actor_filter

    def read(service: BindingService, reason: str | None) -> Iterator[dict[str, Any]]:
        if number is None or at is None:
            found = [
                (one, "named")
                for one in service.investigation.find_by_name(str(wanted.words), actor=actor).bindings
            ]
        else:
            found = _related(service.investigation.number_at(number, at=at, party=wanted.party, actor=actor))
        if reason is not None and found:
            service.reveal([one.id for one, _ in found], reason=reason, what="export of an answer")
        for one, relation in found:
            yield {"relation": relation} | fields(one)

    narrowed = {"words": wanted.words, "number": number, "party": wanted.party, "at": at}
    names = ["relation", *field_names(Binding)]
    return await stream_export(visit, view="answer", narrowed=to_plain(narrowed), names=names, read=read)


def _related(behind: NumberAt) -> list[tuple[Binding, str]]:
    found = [(one.binding, str(one.certainty)) for one in behind.trace.holders]
    found += [(one.binding, one.relation) for one in behind.trace.near_misses]
    alone = ((behind.ended, "ended"), (behind.began, "began"))
    return found + [(one, relation) for one, relation in alone if one is not None]


async def load_search(visit: PageContext, search_id: str) -> Search:
    """What this browser looked for under this id; `Forgotten` where it is over."""
    token = visit.token
    wanted = await visit.run_read(lambda service: service.sessions.get_search(token, search_id))
    if wanted is None:
        raise SearchExpired
    return wanted


def is_middle_number(number: Phone, found: list[Binding]) -> bool:
    """Whether a number is known as a middle number: those are shown, phones are masked."""
    digits = number.digits
    return any(digits in (one.middle_number_a, one.middle_number_b) for one in found)


async def _refined_search(visit: PageContext) -> Search:
    """The search that this one refines: what is left empty stays, so that no phone is sent to and fro."""
    search_id = visit.form.get("again")
    return await load_search(visit, search_id) if search_id else Search()


def _parse_form(form: dict[str, str], zone: time_zones.Zone, before: Search, visit: PageContext) -> Search:
    """What somebody looks for; `InvalidRequest` with every field that is wrong."""
    faults: list[FieldError] = []
    wanted = _parse_query(form.get("q", ""), before, faults)
    party = before.party if not form.get("party") and not form.get("anybody") else None
    if form.get("party"):
        party = _number(form["party"], "party", faults)
    try:
        at = time_zones.parse(form.get("time", ""), zone, visit.now)
    except InvalidRequest as refusal:
        faults += refusal.field_errors
        at = None
    if faults:
        raise InvalidRequest(faults)
    return wanted if wanted.words is not None else replace(wanted, at=at, party=party)


def _parse_query(said: str, before: Search, faults: list[FieldError]) -> Search:
    if not said and (before.number is not None or before.words is not None):
        return Search(words=before.words, number=before.number)
    if not said or len(said) > LONGEST or not said.isprintable():
        faults.append(
            FieldError("q", f"is needed: an id, a reference or a number, of at most {LONGEST} characters")
        )
    digits = DECORATION.sub("", said).removeprefix("+")
    if NUMBER.match(said) and SHORTEST_NUMBER <= len(digits) <= MAX_DIGITS:
        return Search(number=Phone(digits))
    return Search(words=said)


def _number(said: str, field: str, faults: list[FieldError]) -> Phone | None:
    try:
        return Phone(DECORATION.sub("", said))
    except ValueError as error:
        faults.append(FieldError(field, str(error)))
        return None


async def _resolve_ambiguous_number(visit: PageContext, wanted: Search) -> Search:
    """Digits that no binding ever had as a number may be a bindId or a reference: then they are a name."""
    number, said, actor = wanted.number, visit.form.get("q"), visit.actor_filter
    if number is None or not said:
        return wanted

    def ask(service: BindingService) -> Search:
        if service.investigation.number_history(number, actor=actor, limit=1).data:
            return wanted
        named = service.investigation.find_by_name(said, actor=actor)
        return Search(words=said) if named.bindings or named.refusals else wanted

    return await visit.run_read(ask)


async def _single_match(visit: PageContext, words: str) -> str | None:
    """The id of the one binding that these words name; None where there are none or several."""
    actor = visit.actor_filter

    def ask(service: BindingService) -> NameMatches:
        try:
            one = service.get(validation.binding_id(words))
        except errors.NotFound:
            return service.investigation.find_by_name(words, actor=actor)
        return NameMatches(bindings=(one,) if actor in (None, one.actor) else (), refusals=())

    named = await visit.run_read(ask)
    alone = len(named.bindings) == 1 and not named.refusals
    return named.bindings[0].id if alone else None
