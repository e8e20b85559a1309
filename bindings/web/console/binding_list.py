"""The page of all bindings: filters, counts of their values, and the export of exactly this view.

A view is described by its address alone, so a saved or shared link shows it again. The form is a POST that checks
the filters and redirects to that address: no phone and no middle number gets into it, also if one is typed into a
wrong field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Request, get, post

from bindings.access.binding_list import MAX_READ
from bindings.domain.binding import Binding, Mode, State
from bindings.domain.phone import MAX_DIGITS, Phone
from bindings.domain.search_filters import FIXED_FILTERS, Order
from bindings.domain.serialization import field_names, instant, to_plain
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.api.requests import REPEATED
from bindings.web.console import time_zones
from bindings.web.console.export import chosen_format, stream_export
from bindings.web.console.list_views import FilterValue, filter_values, may_be_phone
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from bindings.access.binding_list import BindingListPage, ValueCounts
    from bindings.domain.record_lines import RecordColumns
    from bindings.domain.search_filters import SearchFilters
    from bindings.service import BindingService

PATH = "/bindings"
PER_PAGE = 50
FILTERS = {
    "state": "State",
    "active": "Active now",
    "mode": "Mode",
    "app_id": "Application",
    "pool_number": "Pool",
    "provider_status": "Provider status",
    "state_reason": "Reason of the state",
    "actor": "Requested by",
    "reference_prefix": "Reference begins with",
}
PERIODS = {"today": "today", "yesterday": "yesterday", "7d": "the last 7 days"}
ORDERS = {Order.NEWEST: "newest first", Order.OLDEST: "oldest first", Order.ENDS_SOONEST: "ends soonest"}
FIELDS = (*FILTERS, "period", "from", "to", "order")
NO_CHANGES: Mapping[str, str | None] = {}
MAY_BE_DIGITS = ("reference_prefix", "pool_number")  # digits are accepted if a reference or a pool has them
NOT_DIGITS = re.compile(r"[^0-9]")
NUMBER_ERROR = "looks like a phone or a middle number, which must not stand in an address: search it on Find"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A list of bindings, and the fields of the address that describes it."""

    fields: dict[str, str]
    filters: SearchFilters
    order: Order
    position: tuple[datetime, str] | None

    def address(self, changes: Mapping[str, str | None] = NO_CHANGES, *, path: str = PATH) -> str:
        """Return the address of the first page of this view with some fields changed; None removes a field."""
        changed = {**self.fields, **changes}
        if changed.get("active") != "true" and changed.get("order") == Order.ENDS_SOONEST:
            changed["order"] = None
        values = {name: value for name in FIELDS if (value := changed.get(name))}
        return f"{path}?{urlencode(values)}" if values else path

    def next_page(self, cursor: str) -> str:
        """Return the address of the page that follows."""
        return f"{PATH}?{urlencode(self.fields | {'cursor': cursor})}"


@get(PATH, permissions=OWN_OR_ALL)
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show a page of the view that the address describes."""
    context = PageContext(request)
    try:
        view = await _view_of_address(context)
    except InvalidRequest as error:
        return _form_page(context, context.address_fields, error.field_errors)
    actor = context.actor_filter

    def read(service: BindingService) -> tuple[BindingListPage, ValueCounts]:
        listed = service.binding_list
        page = listed.page(view.filters, order=view.order, size=PER_PAGE, position=view.position)
        return page, listed.count_values(view.filters, only_actor=actor)

    page, counts = await context.run_read(read)
    return context.render(
        "binding_list.html",
        **_form_values(view.fields, ()),
        view=view,
        order=view.order,
        page=page,
        counts=counts,
        value_groups=_value_groups(context, view, counts),
        chosen=_chosen_filters(context, view),
        is_first_page=view.position is None,
    )


@post(PATH, permissions=OWN_OR_ALL, status_code=200)
async def apply_filters(request: Request[Any, Any, Any]) -> PageResponse:
    """Check the filters of the form and redirect to the address of the view. Safe to repeat."""
    context = PageContext(request)
    values = {name: value for name, value in context.form.items() if name in FIELDS}
    try:
        view = await _checked_view(context, values)
    except InvalidRequest as error:
        return _form_page(context, values, error.field_errors)
    return context.redirect(view.address())


@post(f"{PATH}/export", permissions=OWN_OR_ALL, status_code=200)
async def export(request: Request[Any, Any, Any]) -> PageResponse:
    """Export every binding of the view, in its order."""
    context = PageContext(request)
    try:
        view = await _view_of_address(context)
        if context.form.get("reason"):
            validation.reason(context.form["reason"])
    except InvalidRequest as error:
        return _form_page(context, context.address_fields, error.field_errors)
    filters = view.filters
    values = {name: getattr(filters, name) for name in FILTERS} | {
        "from": filters.requested_from,
        "to": filters.requested_to,
        "order": view.order,
    }
    recorded_filters = {name: value for name, value in values.items() if value is not None}

    def read(service: BindingService, reason: str | None) -> Generator[RecordColumns, None, None]:
        if reason is not None:
            service.access_log.record_reveal_of_period(
                since=filters.requested_from,
                until=filters.requested_to,
                reason=reason,
                filters={name: value for name in FIXED_FILTERS if (value := getattr(filters, name)) is not None},
            )
        return service.binding_list.export(filters, order=view.order, file_format=chosen_format(context))

    return await stream_export(
        context,
        view="list of bindings",
        filters=to_plain(recorded_filters),
        columns=field_names(Binding),
        read=read,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenFilter:
    """A filter that is set: its label, its value in words, and the address of the view without it."""

    label: str
    text: str
    address_without: str


def _chosen_filters(context: PageContext, view: View) -> list[ChosenFilter]:
    labels = FILTERS | {"period": "Requested", "from": "Requested from", "to": "Requested before"}
    return [
        ChosenFilter(
            label=labels[name],
            text=_value_text(context, name, value),
            address_without=view.address({name: None}),
        )
        for name, value in view.fields.items()
        if name in labels
    ]


def _value_text(context: PageContext, name: str, value: str) -> str:
    """Return the value of a filter in words."""
    match name:
        case "from" | "to":
            return time_zones.format_instant(datetime.fromisoformat(value), context.zone)
        case "period":
            return PERIODS[value]
        case "active":
            return "yes" if value == "true" else "no"
        case "state":
            return value.replace("_", " ")
        case _:
            return value


def _value_groups(context: PageContext, view: View, counts: ValueCounts) -> list[tuple[str, list[FilterValue]]]:
    """Return the most frequent values of each filter by its label, and the chosen ones."""
    by_label = {
        FILTERS[name]: _filter_values(context, view, name, counts.by_filter[name]) for name in counts.by_filter
    }
    by_label["Requested"] = _filter_values(context, view, "period", dict.fromkeys(PERIODS))
    return [(label, values) for label, values in by_label.items() if values]


def _filter_values(
    context: PageContext, view: View, name: str, counts: Mapping[str, int | None]
) -> list[FilterValue]:
    def address(value: str | None) -> str | None:
        if value is not None and name not in MAY_BE_DIGITS and may_be_phone(value):
            return None
        return view.address({"from": None, "to": None, name: value} if name == "period" else {name: value})

    return filter_values(
        counts, view.fields.get(name), text=lambda value: _value_text(context, name, value), address=address
    )


async def _view_of_address(context: PageContext) -> View:
    """Return the view that the address describes. Raise `InvalidRequest` with all field errors.

    A parameter that this page does not have, or that stands in the address twice, is an error.
    """
    parameters = context.request.query_params.dict()
    unknown = [name for name in parameters if name not in (*FIELDS, "cursor")]
    repeated = [name for name, texts in parameters.items() if len(texts) > 1 and name not in unknown]
    errors = problems.name_errors(unknown, problems.UNKNOWN_FIELD) + problems.name_errors(repeated, REPEATED)
    if errors:
        raise InvalidRequest(errors)
    return await _checked_view(context, context.address_fields)


async def _checked_view(context: PageContext, values: Mapping[str, str]) -> View:
    """Return the view that the fields describe. Raise `InvalidRequest` with all field errors."""
    errors = await _number_errors(context, values)
    since, until = _period(context, values, errors)
    cursor, order = values.get("cursor") or None, values.get("order") or Order.NEWEST
    filters: dict[str, Any] = {name: values.get(name) or None for name in FILTERS}
    filters["active"] = {"true": True, "false": False, None: None}.get(filters["active"], filters["active"])
    if context.actor_filter is not None:
        filters["actor"] = context.actor_filter
    try:
        checked, checked_order, position = validation.binding_list(
            order=order, cursor=cursor, requested_from=since, requested_to=until, **filters
        )
    except InvalidRequest as invalid:
        reported = {error.field for error in errors}
        errors += [error for error in invalid.field_errors if error.field not in reported]
    if errors:
        raise InvalidRequest(errors)
    fields = {name: value for name in FIELDS if (value := values.get(name)) and name not in ("from", "to")}
    if "period" not in fields:
        fields |= {name: instant(at) for name, at in (("from", since), ("to", until)) if at is not None}
    if checked_order is Order.NEWEST:
        fields.pop("order", None)
    if context.actor_filter is not None:
        fields.pop("actor", None)
    return View(fields=fields, filters=checked, order=checked_order, position=position)


async def _number_errors(context: PageContext, values: Mapping[str, str]) -> list[FieldError]:
    """Return an error for each field whose text may be a phone or a middle number.

    The beginning of a reference and the name of a pool may be digits: accepted if a reference or a pool has them.
    """
    numbers = {name: value for name in FILTERS if may_be_phone(value := values.get(name, ""))}
    errors = []
    for name, value in numbers.items():
        if not await context.run_read(lambda service: _is_known(service, name, value, context.actor_filter)):  # noqa: B023 -- awaited here
            errors.append(FieldError(name, NUMBER_ERROR))
    return errors


def _is_known(service: BindingService, name: str, value: str, actor: str | None) -> bool:
    if name == "pool_number":
        return value in {pool.pool_number for pool in service.pools()}
    if name not in MAY_BE_DIGITS:
        return False
    digits = NOT_DIGITS.sub("", value)[:MAX_DIGITS]
    if service.investigation.number_history(Phone(digits), actor=actor, limit=1).data:
        return False
    return bool(service.search(reference_prefix=value, actor=actor, limit=1).data)


def _period(
    context: PageContext, values: Mapping[str, str], errors: list[FieldError]
) -> tuple[datetime | None, datetime | None]:
    """Return the start and the end of the period, in the zone that the user chose."""
    period = values.get("period", "")
    if period:
        today = time_zones.start_of_day(context.now, context.zone)
        match period:
            case "today":
                return today, None
            case "yesterday":
                return time_zones.start_of_day(context.now, context.zone, days_ago=1), today
            case "7d":
                return context.now - timedelta(days=7), None
            case _:
                pass
        errors.append(FieldError("period", f"must be one of {', '.join(PERIODS)}, or empty"))
        return None, None
    since, until = (context.parse_time(values, name, errors) for name in ("from", "to"))
    try:
        return validation.period(since=since, until=until)
    except InvalidRequest as invalid:
        errors += invalid.field_errors
        return None, None


def _form_page(
    context: PageContext, values: Mapping[str, str], field_errors: tuple[FieldError, ...]
) -> PageResponse:
    """Return the form with what was entered, so that it can be corrected, and no list."""
    return context.render("binding_list.html", status=422, **_form_values(values, field_errors), page=None)


def _form_values(values: Mapping[str, str], field_errors: tuple[FieldError, ...]) -> dict[str, Any]:
    return {
        "form_values": values,
        "field_errors": field_errors,
        "filter_labels": FILTERS,
        "states": [(state, state.replace("_", " ")) for state in State],
        "modes": [(mode, mode) for mode in Mode],
        "periods": PERIODS,
        "orders": ORDERS,
        "rows_read": MAX_READ,
    }
