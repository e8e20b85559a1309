"""Doubts: what waits for an answer, what will happen to it and when, and the two acts that end it sooner.

Each act asks why, shows first what it would do, and is only for who may manage. Resolving calls the provider, so
it runs as an errand; marking absent rests on a person's word alone and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings.domain.binding import State
from bindings.domain.roles import Permission
from bindings.errors import InvalidRequest, NotFound
from bindings.lifecycle.doubts import acceptance_deadline, next_steps
from bindings.monitoring import overview
from bindings.validation import requests as validation
from bindings.web.console.binding import get_visible_binding
from bindings.web.console.page_context import PageContext, Reply

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.service import BindingService

SHOWN = 50


@get("/doubts", for_=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> Reply:
    """Show what is open, the oldest first."""
    visit = PageContext(request)
    return await _list(visit)


@post("/doubts/resolve", for_=(Permission.MANAGE,), status_code=200)
async def resolve(request: Request[Any, Any, Any]) -> Reply:
    """Begin a reconciliation, dry or in earnest, and lead to what comes of it."""
    visit = PageContext(request)
    try:
        why = validation.reason(visit.form.get("reason", ""))
    except InvalidRequest as refusal:
        return await _list(visit, status=422, faults=refusal.field_errors)
    errand = await visit.app_state.reconcile_runs.reconcile(
        visit.service, actor=visit.require_principal.actor, reason=why, dry_run=visit.form.get("how") != "now"
    )
    return visit.redirect(f"/doubts/resolve/{errand.id}")


@get("/doubts/resolve/{errand_id:str}", for_=(Permission.READ,))
async def resolved(request: Request[Any, Any, Any]) -> Reply:
    """Show how far a reconciliation is, or what came of it."""
    visit = PageContext(request)
    errand = visit.app_state.reconcile_runs.find(request.path_params["errand_id"])
    if errand is None:
        raise NotFound("this process knows of no such run; when it has ended, it stands under Reports")
    return visit.page("reconcile_run.html", errand=errand)


@get("/doubts/{binding_id:str}/absent", for_=(Permission.MANAGE,))
async def mark_absent_form(request: Request[Any, Any, Any]) -> Reply:
    """Say what marking a doubt absent means, and ask how it is known."""
    visit = PageContext(request)
    return _absent(visit, await get_visible_binding(visit))


@post("/doubts/{binding_id:str}/absent", for_=(Permission.MANAGE,), status_code=200)
async def mark_absent(request: Request[Any, Any, Any]) -> Reply:
    """Show what would change, or change it."""
    visit = PageContext(request)
    binding = await get_visible_binding(visit)
    why, dry = visit.form.get("reason", ""), visit.form.get("how") != "now"
    service = visit.service
    try:
        marked = await visit.app_state.executors.run_read(
            lambda: service.mark_absent(binding.id, reason=why, dry_run=dry)
        )
    except InvalidRequest as refusal:
        return _absent(visit, binding, status=422, faults=refusal.field_errors, why=why)
    if dry:
        return _absent(visit, binding, marked=marked, why=why)
    return visit.redirect(f"/bindings/{binding.id}")


async def _list(visit: PageContext, *, status: int = 200, faults: tuple[Any, ...] = ()) -> Reply:
    after = visit.request.query_params.get("after")

    def ask(service: BindingService) -> tuple[datetime, datetime | None, Any]:
        page = service.open_doubts(cursor=after, limit=SHOWN)
        return service.runtime.database.clock(), overview.next_scan(service.runtime), page

    now, next_scan, page = await visit.run_read(ask)
    config = visit.app_state.service.settings
    return visit.page(
        "doubts.html",
        status=status,
        faults=faults,
        first=after is None,
        page=page,
        now=now,
        next_scan=next_scan,
        outlooks={one.id: next_steps(one, now, config, next_scan) for one in page.data},
        settled={one.id: acceptance_deadline(one, config.timestamp_tolerance_s) for one in page.data},
        state=State,
        calls_provider=visit.app_state.service.runtime.client is not None,
        running=visit.app_state.reconcile_runs.running,
    )


def _absent(visit: PageContext, binding: Binding, *, status: int = 200, **values: Any) -> Reply:
    settled = acceptance_deadline(binding, visit.app_state.service.settings.timestamp_tolerance_s)
    return visit.page(
        "mark_absent.html",
        status=status,
        binding=binding,
        settled_by=settled,
        **{"faults": (), "marked": None, "why": ""} | values,
    )
