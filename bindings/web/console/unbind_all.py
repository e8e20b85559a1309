"""The pages that end all bindings of a phone, a middle number or a reference.

A dry run lists them; its confirmation carries the token of that list, so nothing else is ended. The path names the
phone or number by a binding that has it, or by a search: a URL never contains it. The result is read from the
history by the request id, so every replica shows it as it is now.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from litestar import Request, get, post

from bindings import errors
from bindings.domain.roles import Permission
from bindings.domain.selection import MAX_BINDINGS
from bindings.validation import requests as validation
from bindings.web.console import end_forms
from bindings.web.console.number_fields import binding_number, number_filter
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse
from bindings.web.console.search import load_search

if TYPE_CHECKING:
    from bindings.lifecycle.unbind_all import ReleaseResult

PATHS = [
    "/find/{search_id:str}/unbind",
    "/find/{search_id:str}/names/unbind",
    "/bindings/{binding_id:str}/numbers/{number_field:str}/unbind",
]


@get(PATHS, permissions=(Permission.BIND,))
async def show_form(request: Request[Any, Any, Any]) -> PageResponse:
    """Ask for the reason."""
    context = PageContext(request)
    return _form_page(context, await _selection(context))


@post(PATHS, permissions=(Permission.BIND,), status_code=200)
async def unbind_all(request: Request[Any, Any, Any]) -> PageResponse:
    """List what would be ended (dry run), or end what the token names and redirect to the result. Safe to repeat.

    If bindings were added since the dry run, nothing is ended, and the new list is shown.
    """
    context = PageContext(request)
    selection = await _selection(context)
    try:
        reason = validation.reason(context.form.get("reason", ""))
        own_only = not context.has_permission(Permission.READ)
        call = partial(context.service.unbind_all, **selection, reason=reason, own_only=own_only)
        if context.is_dry_run:
            return _form_page(context, selection, listed=await context.run_read(lambda _: call(dry_run=True)))
        actor, token = context.require_principal.actor, context.form.get("token", "")
        await context.app_state.executors.run_provider_call(actor, call, token=token)
    except errors.SelectionChanged as error:
        listed = await context.run_read(lambda _: call(dry_run=True))
        return _form_page(context, selection, listed=listed, error=error)
    except errors.BindingsError as error:
        return _form_page(context, selection, error=error)
    return context.redirect(f"/unbinds/{context.request_id}")


@get("/unbinds/{request_id:str}", permissions=OWN_OR_ALL)
async def show_result(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the bindings whose unbind a request has requested, as they are now."""
    context = PageContext(request)
    request_id, actor = request.path_params["request_id"], context.actor_filter
    bindings = await context.run_read(
        lambda service: service.investigation.unbinds_of_request(request_id, actor=actor)
    )
    return context.render("unbinds.html", bindings=bindings, request_id_of_unbinds=request_id)


async def _selection(context: PageContext) -> dict[str, Any]:
    """Return the argument of `unbind_all` that the path names."""
    path = context.request.path_params
    if "number_field" in path:
        number, _ = await binding_number(context)
        is_middle_number = path["number_field"].startswith("middle")
    else:
        search = await load_search(context, path["search_id"])
        if search.number is None or context.request.url.path.endswith("/names/unbind"):
            if search.words is None:
                raise errors.NotFound("this search was for a number only")
            return {"reference": search.words}
        number = search.number
        is_middle_number = "middle_number" in await number_filter(context, number)
    return {"middle_number": number.digits} if is_middle_number else {"phone": number}


def _form_page(
    context: PageContext,
    selection: dict[str, Any],
    *,
    listed: ReleaseResult | None = None,
    error: errors.BindingsError | None = None,
) -> PageResponse:
    ((name, value),) = selection.items()
    return context.render_form(
        "unbind_all.html",
        error,
        name=name,
        value=value,
        path=context.request.url.path,
        reason=context.form.get("reason", ""),
        listed=listed,
        max_bindings=MAX_BINDINGS,
        obstacle=end_forms.NO_ACCOUNT if context.app_state.service.runtime.client is None else None,
    )
