"""The change feed under /v1, and how a client waits for new events (long polling)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from litestar import Request, get

from bindings.domain.roles import Permission
from bindings.validation import requests as validation
from bindings.web.api import requests, samples, schemas
from bindings.web.api.api_request import OWN_OR_ALL, ApiRequest
from bindings.web.api.operations import QUERY_PROBLEMS, Operation, ResponseDoc
from bindings.web.api.serializers import json_response
from bindings.web.responses import ApiResponse  # noqa: TC001 -- the framework reads the annotations

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from bindings.domain.binding import Event, Page
    from bindings.service import BindingService
    from bindings.web.auth import Principal


@get(
    "/events",
    permissions=OWN_OR_ALL,
    operation=Operation(
        name="events",
        summary="Read the change feed after a cursor. An event that commits late is never skipped.",
        query=requests.Feed,
        responses={
            200: ResponseDoc(
                "A page of events.", schemas.Events, {"data": [samples.EVENT], "next_cursor": samples.EVENT.cursor}
            )
        },
        problems=QUERY_PROBLEMS,
    ),
)
async def events(request: Request[Any, Any, Any]) -> ApiResponse:
    """Show the change feed after a cursor; with `wait_s` wait for new events (long polling)."""
    call = ApiRequest(request)
    fields = {"after": None} | call.query(requests.Feed)
    validation.feed(**fields)
    page = await call.run_read(_read_feed, call.principal, fields["after"], fields["limit"])
    notifier, loop = call.app_state.notifier, asyncio.get_running_loop()
    deadline = loop.time() + fields["wait_s"]
    while not page.data and (remaining_s := deadline - loop.time()) > 0 and not notifier.stopping:
        after = str(page.next_cursor)
        if not await _until_disconnected(request, notifier.wait(call.principal.actor, after, remaining_s)):
            break
        await call.app_state.authenticator.ensure_still_valid(call.principal, request)
        page = await call.run_read(_read_feed, call.principal, after, fields["limit"])
    data = [call.principal.redact_event(event) for event in page.data]
    return json_response({"data": data, "next_cursor": page.next_cursor})


def _read_feed(service: BindingService, principal: Principal, after: str | None, limit: int) -> Page[Event]:
    """Return a page of the feed: all events for a reader, those of its own bindings for an app."""
    if principal.has_permission(Permission.READ):
        return service.events(after=after, limit=limit)
    return service.events_for_actor(principal.actor, after=after, limit=limit)


async def _until_disconnected(request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, None]) -> bool:
    """Wait while the client is connected; return False if it disconnects first."""
    wait, disconnect = asyncio.ensure_future(waiting), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((wait, disconnect), return_when=asyncio.FIRST_COMPLETED)
        return wait.done() and wait.result() is None
    finally:
        wait.cancel()
        disconnect.cancel()


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


HANDLERS = (events,)
