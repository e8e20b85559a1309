"""The pages of webhooks: their health and deliveries; add, rotate, enable, disable, remove, and deliver again.

A secret is in the response to the form that created it, and nowhere else. A form that is sent again creates no
second webhook and no second secret: it contains the id of the new webhook, or the rotation that it follows. The
path of a URL is a secret at some receivers, so it is shown to those who may manage webhooks only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post
from uuid_utils import uuid7

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.domain.roles import Permission
from bindings.store.deliveries import DeliveryState
from bindings.store.webhook_health import MAX_PENDING
from bindings.store.webhooks import ONLY_BY_NAME
from bindings.validation import fields
from bindings.web import problems
from bindings.web.console.keys import changing_context, may_change
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bindings.service import BindingService
    from bindings.store.webhook_health import WebhookHealth
    from bindings.webhooks.endpoints import WebhookWithSecret

PER_PAGE = 50
STATES = ("all", *DeliveryState)
KIND_PREFIX = "kind."


@get("/webhooks", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show all webhooks with their health, oldest first."""
    context = PageContext(request)
    health = await context.run_read(lambda service: service.webhooks.health())
    return context.render(
        "webhooks.html",
        health=health,
        max_pending=MAX_PENDING,
        only_by_name=ONLY_BY_NAME,
        may_change=await may_change(context),
    )


@get("/webhooks/add", permissions=(Permission.MANAGE,))
async def add_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the form of a new webhook."""
    return _form_page(await changing_context(request), {}, webhook_id=str(uuid7()))


@post("/webhooks/add", permissions=(Permission.MANAGE,), status_code=200)
async def add(request: Request[Any, Any, Any]) -> PageResponse:
    """Add a webhook and show its secret once. Safe to repeat: the form adds at most one webhook."""
    context = await changing_context(request)
    form = context.form
    kinds = [name.removeprefix(KIND_PREFIX) for name in form if name.startswith(KIND_PREFIX)]
    try:
        added = await context.run_read(
            lambda service: service.webhooks.add_once(
                form.get("id", ""), url=form.get("url", ""), kinds=kinds or None
            )
        )
    except errors.BindingsError as error:
        return _form_page(context, form, webhook_id=form.get("id", ""), error=error)
    return _secret_page(context, added, "Webhook added")


@get("/webhooks/{webhook_id:str}", permissions=(Permission.READ,))
async def show_webhook(request: Request[Any, Any, Any]) -> PageResponse:
    """Show one webhook and its deliveries, newest event first."""
    context = PageContext(request)
    state, cursor = request.query_params.get("state", "all"), request.query_params.get("cursor")
    webhook_id = request.path_params["webhook_id"]
    health = await _health(context)
    page = await context.run_read(
        lambda service: service.webhooks.deliveries(
            webhook_id, state=None if state == "all" else state, cursor=cursor, limit=PER_PAGE
        )
    )
    return context.render(
        "webhook.html",
        health=health,
        webhook=health.webhook,
        deliveries=page.data,
        next_cursor=page.next_cursor,
        is_first_page=cursor is None,
        state=state,
        states=STATES,
        max_pending=MAX_PENDING,
        only_by_name=ONLY_BY_NAME,
        may_change=await may_change(context),
    )


@post("/webhooks/{webhook_id:str}/enable", permissions=(Permission.MANAGE,), status_code=200)
async def enable(request: Request[Any, Any, Any]) -> PageResponse:
    """Send again, starting with the events that waited. Safe to repeat."""
    return await _change(request, lambda service, webhook_id: service.webhooks.enable(webhook_id))


@post("/webhooks/{webhook_id:str}/disable", permissions=(Permission.MANAGE,), status_code=200)
async def disable(request: Request[Any, Any, Any]) -> PageResponse:
    """Stop sending; events wait. Safe to repeat."""
    return await _change(request, lambda service, webhook_id: service.webhooks.disable(webhook_id))


@post("/webhooks/{webhook_id:str}/redeliver", permissions=(Permission.MANAGE,), status_code=200)
async def redeliver(request: Request[Any, Any, Any]) -> PageResponse:
    """Send one delivery again, or every dead one. Safe to repeat: a pending delivery stays as it is."""
    delivery_id = PageContext(request).form.get("delivery_id")

    def work(service: BindingService, webhook_id: str) -> object:
        if delivery_id is None:
            return service.webhooks.redeliver_dead(webhook_id)
        return service.webhooks.redeliver(delivery_id)

    return await _change(request, work)


@get("/webhooks/{webhook_id:str}/rotate", permissions=(Permission.MANAGE,))
async def rotate_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Explain a rotation, and ask for a confirmation."""
    context = await changing_context(request)
    return context.render("webhook_rotate.html", webhook=(await _health(context)).webhook)


@post("/webhooks/{webhook_id:str}/rotate", permissions=(Permission.MANAGE,), status_code=200)
async def rotate(request: Request[Any, Any, Any]) -> PageResponse:
    """Create another secret and show it once. Safe to repeat: the form creates at most one."""
    context = await changing_context(request)
    webhook_id, after = request.path_params["webhook_id"], context.form.get("after", "")
    try:
        old_secret_until = fields.instant(after) if after else None
    except ValueError:
        raise problems.Malformed("the form cannot be read; nothing was done") from None
    rotated = await context.run_read(
        lambda service: service.webhooks.rotate_once(webhook_id, old_secret_until=old_secret_until)
    )
    return _secret_page(context, rotated, "New secret")


@get("/webhooks/{webhook_id:str}/remove", permissions=(Permission.MANAGE,))
async def remove_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show what is deleted with the webhook, and ask for a confirmation."""
    context = await changing_context(request)
    return context.render("webhook_remove.html", health=await _health(context), max_pending=MAX_PENDING)


@post("/webhooks/{webhook_id:str}/remove", permissions=(Permission.MANAGE,), status_code=200)
async def remove(request: Request[Any, Any, Any]) -> PageResponse:
    """Delete the webhook and its deliveries. Safe to repeat: then it is not found."""
    context, webhook_id = await changing_context(request), request.path_params["webhook_id"]
    await context.run_read(lambda service: service.webhooks.remove(webhook_id))
    return context.redirect("/webhooks")


async def _health(context: PageContext) -> WebhookHealth:
    """Return the webhook of the path with its health; raise `NotFound` if there is none."""
    webhook_id = context.request.path_params["webhook_id"]

    def read(service: BindingService) -> WebhookHealth | None:
        health = {entry.webhook.id: entry for entry in service.webhooks.health()}
        return health.get(service.webhooks.get(webhook_id).id)

    health = await context.run_read(read)
    if health is None:
        raise errors.NotFound("there is no such webhook")
    return health


async def _change(request: Request[Any, Any, Any], work: Callable[[BindingService, str], object]) -> PageResponse:
    """Change the webhook of the path and return to its page."""
    context, webhook_id = PageContext(request), request.path_params["webhook_id"]
    await context.run_read(lambda service: work(service, webhook_id))
    return context.redirect(f"/webhooks/{webhook_id}")


def _form_page(
    context: PageContext,
    entered: Mapping[str, str],
    *,
    webhook_id: str,
    error: errors.BindingsError | None = None,
) -> PageResponse:
    return context.render_form(
        "webhook_form.html",
        error,
        entered=entered,
        webhook_id=webhook_id,
        kinds=tuple(EventKind),
        kind_prefix=KIND_PREFIX,
        only_by_name=ONLY_BY_NAME,
    )


def _secret_page(context: PageContext, created: WebhookWithSecret | None, title: str) -> PageResponse:
    if created is None:
        return context.render("webhook_sent_before.html", status=409)
    return context.render("webhook_secret.html", created=created, title=title)
