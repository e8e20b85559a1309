"""Sign-in with an API key, sign-out, and the choice of the time zone.

A person whom a proxy has signed in needs no key here, and cannot sign in with one: it is the proxy that decides.
"""

from __future__ import annotations

from typing import Any

import structlog
from litestar import Request, get, post

from bindings.errors import InvalidRequest
from bindings.web import first_sign_in, problems
from bindings.web.auth import client_address
from bindings.web.console import time_zones
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, PageResponse

_log = structlog.get_logger("bindings.web")


@get("/sign-in", open=True)
async def form(request: Request[Any, Any, Any]) -> PageResponse:
    """Show the sign-in form, or start the first session with the link that `serve` printed."""
    context = PageContext(request)
    if context.principal is not None:
        return context.redirect(_safe_redirect(request.query_params.get("next", "/")))
    if first_sign_in.PARAMETER in request.query_params:
        return await _sign_in_by_link(context)
    return context.render(
        "sign_in.html",
        next_path=_safe_redirect(request.query_params.get("next", "/")),
        form_was_refused=request.query_params.get("refused") == "form",
    )


@post("/sign-in", open=True, status_code=200)
async def sign_in(request: Request[Any, Any, Any]) -> PageResponse:
    """Start a session with a fresh token (prevents session fixation), or show why the key is not valid."""
    context = PageContext(request)
    next_path = _safe_redirect(context.form.get("next", "/"))
    if context.principal is not None:
        return context.redirect(next_path)
    try:
        token = await context.app_state.authenticator.sign_in(context.form.get("key", ""), request)
    except problems.Forbidden:
        _log.warning("sign-in refused: role", address=client_address(request))
        message = "The role of this key does not allow the console."
        return context.render("sign_in.html", status=403, next_path=next_path, error=message)
    if token is None:
        _log.warning("sign-in refused", address=client_address(request))
        message = "This key is not known, has expired, or was revoked."
        return context.render("sign_in.html", status=401, next_path=next_path, error=message)
    if not context.request.scope["state"]["token_is_new"]:
        await context.app_state.authenticator.sign_out(context.token, request)
    response = context.redirect(next_path)
    context.set_session_cookie(response, token)
    return response


@post("/sign-out", open=True, status_code=200)
async def sign_out(request: Request[Any, Any, Any]) -> PageResponse:
    """End the session of any role on every replica. Safe to repeat."""
    context = PageContext(request)
    await context.app_state.authenticator.sign_out(context.token, request)
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


async def _sign_in_by_link(context: PageContext) -> PageResponse:
    """Start an admin session with the link that `serve` printed: once, soon, and while no key exists."""
    request = context.request
    if "prefetch" in request.headers.get("sec-purpose", ""):
        raise problems.Forbidden("a link that can be used once is not opened in advance; nothing was done")
    link_token = request.query_params[first_sign_in.PARAMETER]
    token = await context.app_state.authenticator.sign_in_first(link_token, request)
    if token is None:
        message = (
            "This link was used before, is older than ten minutes, or a key exists by now. Sign in with a key, or"
            " restart the service for another link."
        )
        return context.render("sign_in.html", status=401, next_path="/", error=message)
    response = context.redirect("/")
    context.set_session_cookie(response, token)
    return response


def _safe_redirect(path: str) -> str:
    """Return the path if it is one of this site, else "/" (prevents open redirects)."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"
