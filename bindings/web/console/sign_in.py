"""Sign-in with an API key, sign-out, and the choice of the time zone."""

from __future__ import annotations

from typing import Any

import structlog
from litestar import Request, get, post

from bindings.errors import InvalidRequest
from bindings.web import problems
from bindings.web.console import time_zones
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

_log = structlog.get_logger("bindings.web")


@get("/sign-in", open=True)
async def form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the sign-in form."""
    return PageContext(request).render(
        "sign_in.html", next_path=_safe_redirect(request.query_params.get("next", "/"))
    )


@post("/sign-in", open=True, status_code=200)
async def sign_in(request: Request[Any, Any, Any]) -> PageResponse:
    """Start a session with a fresh token (prevents session fixation), or show why the key is not valid."""
    context = PageContext(request)
    next_path = _safe_redirect(context.form.get("next", "/"))
    limiter, address = context.app_state.sign_in_limiter, context.address
    if not limiter.take(address):
        raise problems.RateLimited("too many sign-in attempts; nothing was done", retry_after_s=10)
    token = await context.app_state.authenticator.sign_in(context.form.get("key", ""))
    if token is None:
        _log.warning("sign-in refused", address=address)
        message = "This key is not known, has expired, or was revoked."
        return context.render("sign_in.html", status=401, next_path=next_path, error=message)
    limiter.refund(address)
    if not context.request.scope["state"]["token_is_new"]:
        await context.app_state.authenticator.sign_out(context.token)
    response = context.redirect(next_path)
    context.set_session_cookie(response, token)
    return response


@post("/sign-out", open=True, status_code=200)
async def sign_out(request: Request[Any, Any, Any]) -> PageResponse:
    """End the session of any role on every replica. Safe to repeat."""
    context = PageContext(request)
    await context.app_state.authenticator.sign_out(context.token)
    response = context.redirect("/sign-in")
    response.headers["Clear-Site-Data"] = '"cache"'  # removes the pages that the browser keeps for its Back button
    return response


@post("/zone", permissions=OWN_OR_ALL, status_code=200)
async def zone(request: Request[Any, Any, Any]) -> PageResponse:
    """Set the time zone in which pages show times, and return to the page."""
    context = PageContext(request)
    next_path = _safe_redirect(context.form.get("next", "/"))
    try:
        new_zone = time_zones.zone(context.form.get("zone", ""))
    except InvalidRequest as error:
        return context.render("zone.html", status=422, field_errors=error.field_errors, next_path=next_path)
    return context.set_zone_cookie(context.redirect(next_path), new_zone)


def _safe_redirect(path: str) -> str:
    """Return the path if it is one of this site, else "/" (prevents open redirects)."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"
