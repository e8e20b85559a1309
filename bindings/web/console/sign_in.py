"""Signing in with a key, signing out, and choosing the zone that times are shown in."""

from __future__ import annotations

from typing import Any

import structlog
from litestar import Request, get, post

from bindings.errors import InvalidRequest
from bindings.web import problems
from bindings.web.console import time_zones
from bindings.web.console.page_context import OWN_OR_ALL, PageContext, Reply

_log = structlog.get_logger("bindings.web")


@get("/sign-in", open=True)
async def form(request: Request[Any, Any, Any]) -> Reply:
    """Show where to put the key."""
    return PageContext(request).page("sign_in.html", back=_safe_redirect(request.query_params.get("next", "/")))


@post("/sign-in", open=True, status_code=200)
async def sign_in(request: Request[Any, Any, Any]) -> Reply:
    """Begin a session, with a token that nobody knew before."""
    visit = PageContext(request)
    back = _safe_redirect(visit.form.get("next", "/"))
    tries, address = visit.app_state.sign_in_limiter, visit.address
    if not tries.take(address):
        raise problems.RateLimited("too many tries to sign in; nothing was done", retry_after_s=10)
    token = await visit.app_state.authenticator.sign_in(visit.form.get("key", ""))
    if token is None:
        _log.warning("sign-in refused", address=address)
        message = "This key is not known, has expired, or was revoked."
        return visit.page("sign_in.html", status=401, back=back, fault=message)
    tries.refund(address)
    if not visit.request.scope["state"]["token_is_new"]:
        await visit.app_state.authenticator.sign_out(visit.token)
    answer = visit.redirect(back)
    visit.set_session_cookie(answer, token)
    return answer


@post("/sign-out", for_=OWN_OR_ALL, status_code=200)
async def sign_out(request: Request[Any, Any, Any]) -> Reply:
    """End the session on every replica."""
    visit = PageContext(request)
    await visit.app_state.authenticator.sign_out(visit.token)
    answer = visit.redirect("/sign-in")
    answer.headers["Clear-Site-Data"] = '"cache"'  # pages that a browser kept for its Back button
    return answer


@post("/zone", for_=OWN_OR_ALL, status_code=200)
async def zone(request: Request[Any, Any, Any]) -> Reply:
    """Show times in another zone from now on."""
    visit = PageContext(request)
    back = _safe_redirect(visit.form.get("next", "/"))
    try:
        chosen = time_zones.zone(visit.form.get("zone", ""))
    except InvalidRequest as refusal:
        return visit.page("zone.html", status=422, faults=refusal.field_errors, back=back)
    return visit.set_zone_cookie(visit.redirect(back), chosen)


def _safe_redirect(path: str) -> str:
    """A path of this site; anything else leads home: nobody is sent elsewhere from here."""
    good = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if good else "/"
