"""The pages of bindings in doubt: their next steps, and the two actions that end a doubt sooner.

The pages also list pending binds and unbinds without a clear response. Both actions require a reason, show first
what they would do, and need the permission to manage. A reconciliation calls the provider, so it runs in the
background; marking a binding absent relies on the operator's statement only, and the page says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings.domain.roles import Permission
from bindings.errors import InvalidRequest, NotFound
from bindings.lifecycle.doubts import acceptance_deadline, next_steps
from bindings.lifecycle.resolution_times import next_scan
from bindings.validation import requests as validation
from bindings.web.console.binding import get_visible_binding
from bindings.web.console.page_context import PageContext, PageResponse

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.service import BindingService

PER_PAGE = 50


@get("/doubts", permissions=(Permission.READ,))
async def show(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the open bindings, oldest first."""
    return await _doubts_page(PageContext(request))


@post("/doubts/resolve", permissions=(Permission.MANAGE,), status_code=200)
async def resolve(request: Request[Any, Any, Any]) -> PageResponse:
    """Start a reconciliation (dry run or real) and redirect to its result."""
    context = PageContext(request)
    try:
        reason = validation.reason(context.form.get("reason", ""))
    except InvalidRequest as error:
        return await _doubts_page(context, status=422, field_errors=error.field_errors)
    run = await context.app_state.reconcile_runs.reconcile(
        context.service,
        actor=context.require_principal.actor,
        reason=reason,
        dry_run=context.is_dry_run,
    )
    return context.redirect(f"/doubts/resolve/{run.id}")


@get("/doubts/resolve/{run_id:str}", permissions=(Permission.READ,))
async def reconcile_run(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the progress of a reconciliation, or its result."""
    context = PageContext(request)
    run = context.app_state.reconcile_runs.find(request.path_params["run_id"])
    if run is None:
        raise NotFound("this process does not have this run; after it has ended, Reports shows its result")
    return context.render("reconcile_run.html", run=run)


@get("/doubts/{binding_id:str}/absent", permissions=(Permission.MANAGE,))
async def mark_absent_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Explain what marking a binding absent means, and ask for the reason."""
    context = PageContext(request)
    return await _mark_absent_page(context, await get_visible_binding(context))


@post("/doubts/{binding_id:str}/absent", permissions=(Permission.MANAGE,), status_code=200)
async def mark_absent(request: Request[Any, Any, Any]) -> PageResponse:
    """Mark a binding absent and redirect to it, or show what would change (dry run)."""
    context = PageContext(request)
    binding = await get_visible_binding(context)
    reason, dry_run = context.form.get("reason", ""), context.is_dry_run
    try:
        result = await context.run_read(
            lambda service: service.mark_absent(binding.id, reason=reason, dry_run=dry_run)
        )
    except InvalidRequest as error:
        binding = await get_visible_binding(context)  # as it is now: the page says why it cannot be marked
        reason_errors = [field_error for field_error in error.field_errors if field_error.field == "reason"]
        return await _mark_absent_page(context, binding, status=422, field_errors=reason_errors, reason=reason)
    if dry_run:
        return await _mark_absent_page(context, binding, result=result, reason=reason)
    return context.redirect(f"/bindings/{binding.id}")


async def _doubts_page(
    context: PageContext, *, status: int = 200, field_errors: tuple[Any, ...] = ()
) -> PageResponse:
    after = context.request.query_params.get("after")

    def read(service: BindingService) -> tuple[datetime, datetime | None, Any]:
        page = service.open_doubts(cursor=after, limit=PER_PAGE)
        return service.runtime.database.clock(), next_scan(service.runtime), page

    now, scan_at, page = await context.run_read(read)
    settings = context.app_state.service.settings
    return context.render(
        "doubts.html",
        status=status,
        field_errors=field_errors,
        reason=context.form.get("reason", ""),
        is_first_page=after is None,
        bindings=page.data,
        next_cursor=page.next_cursor,
        now=now,
        next_scan=scan_at,
        next_steps={binding.id: next_steps(binding, now, settings, scan_at) for binding in page.data},
        acceptance_deadlines={binding.id: _acceptance_deadline(context, binding) for binding in page.data},
        calls_provider=context.app_state.service.runtime.client is not None,
        active_run=context.app_state.reconcile_runs.running,
    )


async def _mark_absent_page(
    context: PageContext, binding: Binding, *, status: int = 200, **values: Any
) -> PageResponse:
    """Return the form, or why the binding cannot be marked now: it is not in doubt, or it is too early."""
    deadline = _acceptance_deadline(context, binding)
    now = await context.run_read(lambda service: service.runtime.database.clock())
    template_values: dict[str, Any] = {"field_errors": (), "result": None, "reason": ""} | values
    return context.render(
        "mark_absent.html",
        status=status,
        binding=binding,
        acceptance_deadline=deadline,
        is_too_early=now <= deadline,
        **template_values,
    )


def _acceptance_deadline(context: PageContext, binding: Binding) -> datetime:
    return acceptance_deadline(binding, context.app_state.service.settings.timestamp_tolerance_s)
