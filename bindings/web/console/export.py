"""Exports of the displayed lists as CSV or NDJSON: streamed, and recorded in the access log.

Rows are sent in batches as they are read; the file is never stored. Its hash and row count are known only at the
end, so they are part of the manifest, which has a page of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from litestar import MediaType, Request, Response, get, post
from litestar.response import Stream

from bindings import errors
from bindings.aio import in_context
from bindings.domain.binding import Binding, Event
from bindings.domain.record_lines import LineEncoder, RecordColumns
from bindings.domain.roles import Permission
from bindings.domain.search_filters import Order, SearchFilters
from bindings.domain.serialization import field_names, fields, to_plain
from bindings.errors import FieldError, InvalidRequest, NotFound
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.api import serializers
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
    from datetime import datetime

    from bindings.service import BindingService
    from bindings.store.access_log import Export
    from bindings.web.auth import Principal

    Batch: TypeAlias = Sequence[Any] | RecordColumns

VIEWS_WITHOUT_PHONES = ("events", "history of a binding", "access log")
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


async def stream_export(
    context: PageContext,
    *,
    view: str,
    filters: Mapping[str, Any],
    columns: list[str],
    read: Callable[[BindingService, str | None], Generator[Batch, None, None]],
) -> PageResponse:
    """Return a list as a file, recorded in the access log before the first row. Not safe to repeat.

    `read` yields the records in batches, and records the reveals if it gets a reason. `filters` are those of
    the manifest. Phones are masked. They are in full for a principal that may reveal and gives a reason, and
    in bindings that the principal itself requested.
    """
    principal = context.require_principal
    reason = context.form.get("reason") or None
    if reason is not None and not context.has_permission(Permission.REVEAL):
        raise problems.Forbidden("the role of your key does not see full phone numbers; nothing was exported")
    file_format, service = chosen_format(context), context.service
    requests_bindings = context.has_permission(Permission.BIND) and view not in VIEWS_WITHOUT_PHONES
    own_phones = {"phones of own bindings": "in full"} if requests_bindings else {}
    export_id = await context.run_read(
        lambda caller_service: caller_service.access_log.start_export(
            view=view, filters={**filters, **own_phones}, format=file_format, reason=reason
        )
    )

    encoder = LineEncoder(columns, file_format)
    in_full = reason is not None or context.actor_filter is not None  # role app: each row is the principal's

    def lines() -> Generator[tuple[int, str], None, None]:
        with closing(read(service, reason)) as record_batches:
            for batch in record_batches:
                revealed = in_full or _are_own(context, batch)
                yield len(batch), encoder.lines(_redacted_batch(principal, batch), revealed=revealed)

    name = file_name(export_id, view, file_format)
    chunks = _file_chunks(context, export_id, encoder.header, lines())
    response: PageResponse = Stream(
        chunks,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Link": f"</exports/{export_id}>; rel=describedby",
        },
        media_type=MEDIA_TYPES[file_format],
    )
    return context.set_export_cookie(context.add_headers(response), export_id)


def chosen_format(context: PageContext) -> str:
    """Return the format that the form names; `stream_export` refuses one that there is not."""
    return context.form.get("format", "csv")


def _are_own(context: PageContext, batch: Batch) -> list[bool]:
    """Return for each record whether it is a binding whose phones the principal sees in full."""
    if isinstance(batch, RecordColumns):
        actors = batch.by_name["actor"]
        sees = {actor: context.require_principal.sees_phones_of(actor) for actor in set(actors)}
        return [sees[actor] for actor in actors]
    return [isinstance(record, Binding) and context.sees_phones(record) for record in batch]


def _redacted_batch(principal: Principal, batch: Batch) -> Batch:
    if isinstance(batch, RecordColumns):
        return principal.redact_columns(batch)
    return [_redacted(principal, record) for record in batch]


def _redacted(principal: Principal, record: Any) -> Any:
    """Return a record without what the principal may not see."""
    if isinstance(record, Binding):
        return principal.redact_binding(record)
    return principal.redact_event(record) if isinstance(record, Event) else record


def file_name(export_id: str, view: str, file_format: str) -> str:
    """Return the name under which a browser saves an export."""
    return f"{view.replace(' ', '-')}-{export_id}.{file_format}"


async def _file_chunks(
    context: PageContext,
    export_id: str,
    header: str,
    batches_of_lines: Generator[tuple[int, str], None, None],
) -> AsyncIterator[bytes]:
    """Yield the file in chunks; each batch is read and encoded on a thread of the read pool."""
    executors, service = context.app_state.executors, context.service
    caller = context.require_principal.actor
    digest, row_count = hashlib.sha256(), 0
    reading = threading.Lock()

    def next_batch() -> tuple[int, str] | None:
        with reading:
            return next(batches_of_lines, None)

    def close() -> None:
        with reading:  # a thread may still read the batch that the browser no longer waits for
            batches_of_lines.close()

    try:
        chunk = header.encode()
        while True:
            digest.update(chunk)
            if chunk:
                yield chunk
            batch = await executors.run_export_batch(caller, next_batch)
            if batch is None:
                break
            batch_rows, lines = batch
            row_count += batch_rows
            chunk = lines.encode()
    finally:
        # Also if the browser has disconnected: this ends the read of the database. It is no read of the caller,
        # which could be refused. A task that is cancelled again would take it out of the queue of the threads.
        await asyncio.shield(_run_in_default_executor(close))
    finish = partial(service.access_log.finish_export, export_id, row_count=row_count, sha256=digest.hexdigest())
    await asyncio.shield(_run_in_default_executor(finish))


def _run_in_default_executor(call: Callable[[], None]) -> asyncio.Future[None]:
    return asyncio.get_running_loop().run_in_executor(None, in_context(call))


def _period(context: PageContext) -> tuple[datetime | None, datetime | None]:
    field_errors: list[FieldError] = []
    since, until = (context.parse_time(context.form, name, field_errors) for name in ("from", "to"))
    if field_errors:
        raise InvalidRequest(field_errors)
    return validation.period(since=since, until=until)


@get("/exports", permissions=(Permission.READ,))
async def form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the form for exporting a period."""
    return await _period_page(PageContext(request))


async def _period_page(
    context: PageContext, *, status: int = 200, field_errors: tuple[FieldError, ...] = ()
) -> PageResponse:
    """Return the form, with what was entered in it if it has errors, and the last export of this browser."""
    return context.render(
        "exports.html",
        status=status,
        field_errors=field_errors,
        form_values=context.form,
        last_export=await _last_export(context),
    )


async def _last_export(context: PageContext) -> Export | None:
    export_id = context.last_export_id
    if export_id is None:
        return None
    try:
        return await context.run_read(lambda service: service.access_log.get_export(export_id))
    except NotFound:
        return None


@post("/exports", permissions=(Permission.READ,), status_code=200)
async def export_period(request: Request[Any, Any, Any]) -> PageResponse:
    """Export all bindings or all events of a period."""
    context = PageContext(request)
    view = "events" if context.form.get("what") == "events" else "bindings"
    try:
        since, until = _period(context)
        if context.form.get("reason"):
            validation.reason(context.form["reason"])
    except InvalidRequest as error:
        return await _period_page(context, status=422, field_errors=error.field_errors)
    filters = {"from": to_plain(since), "to": to_plain(until)}

    def read(service: BindingService, reason: str | None) -> Generator[Batch, None, None]:
        if view == "events":
            return service.event_list.export(since=since, until=until)
        if reason is not None:
            service.access_log.record_reveal_of_period(since=since, until=until, reason=reason)
        requested = SearchFilters(requested_from=since, requested_to=until)
        return service.binding_list.export(requested, order=Order.OLDEST, file_format=chosen_format(context))

    columns = field_names(Event if view == "events" else Binding)
    return await stream_export(context, view=view, filters=filters, columns=columns, read=read)


@get("/exports/{export_id:str}", permissions=OWN_OR_ALL)
async def manifest(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the manifest of an export, as a page or as JSON (`?as=json`)."""
    context = PageContext(request)
    export_id = request.path_params["export_id"]
    export = await context.run_read(lambda service: service.access_log.get_export(export_id))
    if context.actor_filter not in (None, export.actor):
        raise errors.NotFound("there is no such export")
    if not _may_see_hash(context, export):
        export = replace(export, sha256=None)
    saved_as = file_name(export.id, export.view, export.format)
    if request.query_params.get("as") == "json":
        content = fields(export) | {"file": saved_as, "phones": "masked" if export.reason is None else "in full"}
        return context.add_headers(Response(serializers.json_response(content).content, media_type=MediaType.JSON))
    return context.render(
        "export.html",
        export=export,
        saved_as=saved_as,
        filter_values=_filter_values(export),
        shows_hash=_may_see_hash(context, export),
    )


def _filter_values(export: Export) -> list[tuple[str, Any]]:
    """Return the names and values of the filter: the start of a period before its end."""
    names = sorted(export.filter, key=lambda name: (name == "to", name))
    return [(name, export.filter[name]) for name in names if export.filter[name] is not None]


def _may_see_hash(context: PageContext, export: Export) -> bool:
    """Return whether the principal may see the hash of the file.

    If the file has full phones, its hash lets a reader of the masked list try all digits until the hashes match.
    """
    is_own = export.actor == context.require_principal.actor and export.reason is None
    return is_own or export.view in VIEWS_WITHOUT_PHONES or context.has_permission(Permission.REVEAL)
