"""Lists taken away as CSV or NDJSON: exactly what the page shows, streamed, on the record.

A row leaves a few moments after it was read; nothing is kept. The sum and the count are known only at the end,
so they stand in the manifest, on a page of their own.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Request, Response, get, post
from litestar.response import Stream

from bindings.domain.binding import Binding, Event
from bindings.domain.roles import Permission
from bindings.domain.serialization import batches, field_names, fields, format_lines, header_line, to_plain
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.api import serializers
from bindings.web.console import time_zones
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from datetime import datetime

    from bindings.service import BindingService

BATCH = 1_000
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


async def stream_export(
    visit: PageContext,
    *,
    view: str,
    narrowed: dict[str, Any],
    names: list[str],
    read: Callable[[BindingService, str | None], Iterator[Any]],
) -> Reply:
    """Send a list as a file. `read` gives its records, and records reveals where it is given a reason.

    Phones are masked; in full for a reason, by whoever may reveal; and to an app, which gave them itself.
    """
    reason = visit.form.get("reason") or None
    if reason is not None and not visit.may(Permission.REVEAL):
        raise problems.Forbidden("the role of your key does not see full phone numbers; nothing was exported")
    kind, service = visit.form.get("format", "csv"), visit.service
    export_id = await visit.run_read(
        lambda found: found.access_log.start_export(view=view, narrowed=narrowed, format=kind, reason=reason)
    )

    def shown() -> Generator[dict[str, Any], None, None]:
        for record in read(service, reason):
            own = isinstance(record, Binding) and visit.sees_phones(record)
            full = reason is not None or own or visit.actor_filter is not None  # of an app every row is its own
            yield to_plain(record, revealed=full)

    name = f"{view.replace(' ', '-')}-{export_id}.{kind}"
    parts = _parts(visit, export_id, batches(shown(), BATCH), names, kind)
    answer: Reply = Stream(
        parts,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Link": f"</exports/{export_id}>; rel=describedby",
        },
        media_type=MEDIA_TYPES[kind],
    )
    return visit.add_headers(answer)


async def _parts(
    visit: PageContext,
    export_id: str,
    found: Generator[list[dict[str, Any]], None, None],
    names: list[str],
    kind: str,
) -> AsyncIterator[bytes]:
    """The file, part by part; each part is read on a thread for questions."""
    executors, service = visit.app_state.executors, visit.service
    digest, count = hashlib.sha256(), 0
    try:
        part = header_line(names, kind).encode()
        while True:
            digest.update(part)
            if part:
                yield part
            batch = await executors.run_read(lambda: next(found, None))
            if batch is None:
                break
            count += len(batch)
            part = format_lines(batch, names, kind).encode()
    finally:
        await executors.run_read(found.close)  # also where the browser went away: it ends what is read
    await executors.run_read(
        lambda: service.access_log.finish_export(export_id, row_count=count, sha256=digest.hexdigest())
    )


def _period(visit: PageContext) -> tuple[datetime | None, datetime | None]:
    ends = []
    faults: list[FieldError] = []
    for field in ("from", "to"):
        try:
            ends.append(time_zones.parse(visit.form.get(field, ""), visit.zone, visit.now))
        except InvalidRequest as refusal:
            faults += [FieldError(field, fault.message) for fault in refusal.field_errors]
    if faults:
        raise InvalidRequest(faults)
    return ends[0], ends[1]


@get("/exports", for_=(Permission.READ,))
async def form(request: Request[Any, Any, Any]) -> Reply:
    """Show what can be taken away as a whole."""
    return PageContext(request).page("exports.html", faults=())


@post("/exports", for_=(Permission.READ,), status_code=200)
async def period(request: Request[Any, Any, Any]) -> Reply:
    """Take away every binding or every event of a period."""
    visit = PageContext(request)
    what = visit.form.get("what", "bindings")
    try:
        since, until = _period(visit)
        if visit.form.get("reason"):
            validation.reason(visit.form["reason"])
    except InvalidRequest as refusal:
        return visit.page("exports.html", status=422, faults=refusal.field_errors)
    narrowed = {"from": to_plain(since), "to": to_plain(until)}

    def read(service: BindingService, reason: str | None) -> Iterator[Any]:
        if what == "events":
            return service.export_events(since=since, until=until)
        if reason is not None:
            service.reveal(
                [], reason=reason, what=f"export of bindings from {narrowed['from']} to {narrowed['to']}"
            )
        return service.export_bindings(since=since, until=until)

    names = field_names(Event if what == "events" else Binding)
    return await stream_export(
        visit, view="events" if what == "events" else "bindings", narrowed=narrowed, names=names, read=read
    )


@get("/exports/{export_id:str}", for_=OWN_OR_ALL)
async def manifest(request: Request[Any, Any, Any]) -> Reply:
    """Show what an export was."""
    visit = PageContext(request)
    export_id = request.path_params["export_id"]
    found = await visit.run_read(lambda service: service.access_log.get_export(export_id))
    if visit.actor_filter not in (None, found.actor):
        raise problems.NoSuchPath("there is no such export")
    if request.query_params.get("as") == "json":
        told = fields(found) | {"phones": "masked" if found.reason is None else "in full"}
        return visit.add_headers(Response(serializers.json_response(told).content, media_type=MediaType.JSON))
    return visit.page("export.html", export=found)
