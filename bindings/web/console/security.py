"""Who gets to a page: the session, the role that the page needs, and for a change that its form came from here.

A browser carries one random token in a cookie that no script can read. It names the session once somebody has
signed in, and every form carries a sum of it: a page of another site can send a form here, but cannot know that.
Where the browser says what site a form came from, it must be this one too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from litestar import Request

from bindings.access.sessions import new_token
from bindings.errors import BindingsError
from bindings.web import problems

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from bindings.web.state import AppState

COOKIE = "bindings_session"
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")
CSRF = "csrf"
MOST_FIELDS = 64
OPEN = "open"  # for pages that need no session


class SignInNeeded(BindingsError):
    """Sign in with a key to see this page; nothing was done."""

    code = "unauthenticated"
    http_status = 401


class CsrfError(BindingsError):
    """The form did not come from this page, or its session is over; reload it and try again."""

    code = "forbidden"
    http_status = 403


async def page_guard(connection: ASGIConnection[Any, Any, Any, Any], route: BaseRouteHandler) -> None:
    """Recognise the browser and hold its role against what the page needs (a guard)."""
    if isinstance(connection, Request) and connection.method == "OPTIONS":
        return  # the framework answers which methods there are, and touches nothing
    state = connection.scope["state"]
    state["token"], state["token_is_new"] = _token(connection)
    if isinstance(connection, Request) and connection.method == "POST":
        state["form"] = await _form(connection)
    if route.opt.get(OPEN):
        return
    app_state: AppState = connection.app.state.app_state
    try:
        state["principal"] = who = await app_state.authenticator.authenticate_session(
            state["token"], connection.headers
        )
    except problems.Unauthenticated:
        raise SignInNeeded from None
    if not who.has_permission(*route.opt["for_"]):
        raise problems.Forbidden("the role of your key does not allow this page; nothing was done")


def csrf(token: str) -> str:
    """What a form must carry to be taken from the browser with this token."""
    return hmac.new(token.encode(), b"bindings console form", hashlib.sha256).hexdigest()


def cookie(*, over_tls: bool) -> str:
    """The cookie's name; over TLS one that no other host of the domain, and no plain connection, can set."""
    return f"__Host-{COOKIE}" if over_tls else COOKIE


def _token(connection: ASGIConnection[Any, Any, Any, Any]) -> tuple[str, bool]:
    app_state: AppState = connection.app.state.app_state
    given = connection.cookies.get(cookie(over_tls=app_state.proxies.over_tls(connection.scope)), "")
    return (given, False) if TOKEN.match(given) else (new_token(), True)


async def _form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """The fields of a form that came from one of our own pages; of a field given twice the last counts."""
    if not _is_same_origin(request):
        raise CsrfError
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise problems.Malformed("the form cannot be read; nothing was done") from None
    fields = {name: value.strip() for name, value in pairs}
    expected = csrf(request.scope["state"]["token"])
    if not hmac.compare_digest(fields.pop(CSRF, "").encode(), expected.encode()):
        raise CsrfError
    return fields


def _is_same_origin(request: Request[Any, Any, Any]) -> bool:
    """Whether the browser says that the form came from this site, in the one way or the other."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
