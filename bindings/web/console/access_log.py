"""The access log page: reveals of full phones, searches, exports and acts, narrowed by filters.

A view is described by its address alone, so a saved link shows it again, also after a sign-in. The form is a POST
that checks the filters and redirects to that address: no phone and no middle number gets into it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from litestar import Request, get, post

from bindings.access.access_log import MAX_READ
from bindings.domain.access_log import AccessKind, AccessLogEntry
from bindings.domain.roles import Permission
from bindings.domain.serialization import field_names, fields, to_plain
from bindings.errors import FieldError, InvalidRequest
from bindings.monitoring.audit import history_head
from bindings.validation import requests as validation
from bindings.web.console.export import stream_export
from bindings.web.console.list_views import FilterValue, filter_values, may_be_phone
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from bindings.access.access_log import AccessCounts, AccessLogPage
    from bindings.monitoring.audit import HistoryHead
    from bindings.service import BindingService

PATH = "/access"
PER_PAGE = 50
# Columns of the file that keep their names from earlier exports, by field of an entry.
COLUMN_NAMES = {"description": "what", "complete": "whole"}
KINDS = {
    AccessKind.REVEAL: "phones shown in full",
    AccessKind.EXPORT_IN_FULL: "export with phones in full",
    AccessKind.EXPORT_MASKED: "other export",
    AccessKind.PHONE_SEARCH: "search by a phone",
    AccessKind.ACT: "administrative act",
    AccessKind.SESSION: "session of the console",
}
SPANS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
FIELDS = ("kind", "actor", "key_id", "reason_prefix", "binding_id", "span", "since", "until")
TEXT_FIELDS = ("actor", "reason_prefix")
NUMBER_ERROR = (
    "has a number of 7 digits or more, which may be a phone and must not stand in an address. Use the command"
    " bindings access-log, or POST /v1/access-log/search"
)


@get(PATH, permissions=(Permission.READ,))
async def access_log(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the entries that the address describes, newest first."""
    context = PageContext(request)
    values = _filled(request.query_params)
    try:
        filters = _filters(context, values)
    except InvalidRequest as error:
        return _refused(context, values, error)
    cursor = request.query_params.get("cursor")

    def read(service: BindingService) -> tuple[AccessLogPage, AccessCounts, HistoryHead | None]:
        log = service.access_log
        page = log.entries(**filters, cursor=cursor, limit=PER_PAGE)
        return page, log.count_values(**filters), history_head(service.runtime.database)

    page, counts, head = await context.run_read(read)
    return context.render(
        "access.html",
        page=page,
        head=head,
        **_view(values),
        value_groups=_value_groups(values, counts),
        counted_entries=None if counts.is_complete else MAX_READ,
        is_first_page=cursor is None,
        field_errors=(),
    )


@post(PATH, permissions=(Permission.READ,), status_code=200)
async def apply_filters(request: Request[Any, Any, Any]) -> PageResponse:
    """Check the filters of the form and redirect to the address of the view. Safe to repeat."""
    context = PageContext(request)
    values = _filled(context.form)
    if "since" in values or "until" in values:
        values.pop("span", None)
    try:
        filters = _filters(context, values)
    except InvalidRequest as error:
        return _refused(context, values, error)
    for name in ("since", "until"):
        if name in values:
            values[name] = to_plain(filters[name])
    return context.redirect(_address(PATH, values))


@post(f"{PATH}/export", permissions=(Permission.READ,), status_code=200)
async def export(request: Request[Any, Any, Any]) -> PageResponse:
    """Export every entry that the address describes."""
    context = PageContext(request)
    values = _filled(request.query_params)
    try:
        filters = _filters(context, values)
    except InvalidRequest as error:
        return _refused(context, values, error)

    def read(service: BindingService, _reason: str | None) -> Generator[Sequence[dict[str, Any]], None, None]:
        cursor, has_more = None, True
        while has_more:
            page = service.access_log.entries(**filters, cursor=cursor, limit=PER_PAGE)
            yield list(map(_row, page.data))
            cursor, has_more = page.next_cursor, page.next_cursor is not None

    columns = [COLUMN_NAMES.get(name, name) for name in field_names(AccessLogEntry)]
    recorded_filters = {name: to_plain(value) for name, value in filters.items() if value is not None}
    return await stream_export(context, view="access log", filters=recorded_filters, columns=columns, read=read)


def _row(entry: AccessLogEntry) -> dict[str, Any]:
    return {COLUMN_NAMES.get(name, name): value for name, value in fields(entry).items()}


def _filled(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of the view that are not empty."""
    return {name: value for name in FIELDS if (value := parameters.get(name, "").strip())}


def _filters(context: PageContext, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the filters that the fields describe. Raise `InvalidRequest` with all field errors."""
    errors = [FieldError(name, NUMBER_ERROR) for name in TEXT_FIELDS if may_be_phone(values.get(name, ""))]
    filters: dict[str, Any] = {name: values.get(name) for name in FIELDS[:5]}
    span = values.get("span")
    if span is not None and span not in SPANS:
        errors.append(FieldError("span", f"must be one of {', '.join(SPANS)}"))
    for name in ("since", "until"):
        filters[name] = context.parse_time(values, name, errors)
    if span in SPANS and "since" not in values and "until" not in values:
        filters["since"] = context.now - SPANS[span]
    try:
        validation.access_filters(**filters, limit=PER_PAGE)
    except InvalidRequest as error:
        reported = {field_error.field for field_error in errors}
        errors += [field_error for field_error in error.field_errors if field_error.field not in reported]
    if errors:
        raise InvalidRequest(errors)
    return filters


def _refused(context: PageContext, values: dict[str, str], error: InvalidRequest) -> PageResponse:
    """Return the form with what was entered, and what is wrong with it."""
    wrong = {field_error.field for field_error in error.field_errors}
    view = _view({name: value for name, value in values.items() if name not in wrong}) | {"values": values}
    return context.render(
        "access.html", status=422, page=None, **view, is_first_page=True, field_errors=error.field_errors
    )


def _view(values: dict[str, str]) -> dict[str, Any]:
    """Return what the page shows of the filters, and the addresses of the views with others."""
    without_period = {name: value for name, value in values.items() if name not in ("span", "since", "until")}
    return {
        "values": values,
        "kinds": KINDS,
        "address": _address(PATH, values),
        "export_address": _address(f"{PATH}/export", values),
        "spans": {span: _address(PATH, without_period | {"span": span}) for span in SPANS},
        "all_time": _address(PATH, without_period),
    }


def _value_groups(values: Mapping[str, str], counts: AccessCounts) -> list[tuple[str, list[FilterValue]]]:
    """Return the kinds and the most frequent actors, by label."""

    def group(name: str, text: Callable[[str], str]) -> list[FilterValue]:
        return filter_values(
            counts.by_filter[name],
            values.get(name),
            text=text,
            address=lambda value: (
                None if may_be_phone(value or "") else _address(PATH, {**values, name: value or ""})
            ),
        )

    groups = [("What", group("kind", lambda kind: KINDS[AccessKind(kind)])), ("Actor", group("actor", str))]
    return [(label, listed) for label, listed in groups if listed]


def _address(path: str, values: Mapping[str, str]) -> str:
    ordered = {name: values[name] for name in FIELDS if values.get(name)}
    return f"{path}?{urlencode(ordered)}" if ordered else path
