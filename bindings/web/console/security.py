"""Access control of the console: session token, permissions of a page, and CSRF protection of forms.

A browser carries one random token in a cookie that scripts cannot read. After sign-in it identifies the session.
Every form carries a CSRF token, which is an HMAC keyed with the session token: a page of another site can send a
form here, but cannot compute it. If the browser states the origin of a form, that must be this site as well.

If a trusted proxy reports the user, the token is bound to that user too: another user of the same browser has
another one, and so neither the forms nor the searches of the user before.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from litestar import Request

from bindings.access.sessions import new_token
from bindings.errors import BindingsError
from bindings.web import problems

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from bindings.web.auth import Principal
    from bindings.web.state import AppState

COOKIE = "bindings_session"
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")
CSRF = "csrf"
OPEN = "open"  # the route option of pages that need no session


class SignInNeeded(BindingsError):
    """Sign in with a key to see this page; nothing was done."""

    code = "unauthenticated"
    http_status = 401


class CsrfError(BindingsError):
    """The form was not sent from this console, or its session has ended; nothing was done. Open the page again."""

    code = "forbidden"
    http_status = 403


async def page_guard(connection: ASGIConnection[Any, Any, Any, Any], route: BaseRouteHandler) -> None:
    """Authenticate the browser and check the permissions that the page needs (a Litestar guard).

    Raise `SignInNeeded` without a valid session, `CsrfError` for a foreign form, `Forbidden` for a wrong role.
    """
    if isinstance(connection, Request) and connection.method == "OPTIONS":
        return  # the framework lists the methods and runs no handler
    read_token(connection)
    state = connection.scope["state"]
    app_state: AppState = connection.app.state.app_state
    if isinstance(connection, Request) and connection.method == "POST":
        state["form"] = await _form(connection)
    if route.opt.get(OPEN):
        state["principal"] = app_state.authenticator.identify_person(connection)
        return
    try:
        state["principal"] = principal = await _authenticate(connection)
    except problems.Unauthenticated:
        raise SignInNeeded from None
    if not principal.has_permission(*route.opt["permissions"]):
        raise problems.Forbidden("your role does not allow this page; nothing was done")


async def authenticate_page(request: Request[Any, Any, Any]) -> None:
    """Find the principal of a page that no route serves, if the browser has a session. The token must be read."""
    state = request.scope["state"]
    with suppress(BindingsError):
        state["principal"] = await _authenticate(request)


async def _authenticate(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    app_state: AppState = connection.app.state.app_state
    state = connection.scope["state"]
    token: str | None = None if state["token_is_new"] else state["token"]
    return await app_state.authenticator.authenticate_session(token, connection)


def csrf_token(token: str) -> str:
    """Return the CSRF token that a form must carry, derived from the session token."""
    return hmac.new(token.encode(), b"bindings console form", hashlib.sha256).hexdigest()


def reveal_proof(token: str, binding_id: str, until: int) -> str:
    """Return a proof that this session has recorded a reveal of the binding; valid until a Unix time."""
    message = f"bindings console reveal {binding_id} {until}".encode()
    return f"{until}.{hmac.new(token.encode(), message, hashlib.sha256).hexdigest()}"


def is_reveal_proof(token: str, binding_id: str, proof: str, now: int) -> bool:
    """Return whether the text is a proof of `reveal_proof` that is still valid at a Unix time."""
    until = proof.partition(".")[0]
    if not re.fullmatch(r"[0-9]{1,12}", until) or int(until) < now:
        return False
    return hmac.compare_digest(proof.encode(), reveal_proof(token, binding_id, int(until)).encode())


def cookie_name(*, over_tls: bool) -> str:
    """Return the name of the session cookie.

    Over TLS it has the `__Host-` prefix: no other host of the domain and no plain connection can set it.
    """
    return f"__Host-{COOKIE}" if over_tls else COOKIE


def read_token(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Put the token of the browser into the state of the request, or a new one if it has none.

    `cookie` is what the browser carries; `token` is that of its session, which is bound to the proxy's user if
    there is one.
    """
    state, app_state = connection.scope["state"], connection.app.state.app_state
    cookie = connection.cookies.get(cookie_name(over_tls=app_state.proxies.over_tls(connection.scope)), "")
    state["token_is_new"] = not TOKEN.match(cookie)
    state["cookie"] = new_token() if state["token_is_new"] else cookie
    user = app_state.authenticator.user_of_proxy(connection)
    state["token"] = state["cookie"] if user is None else _token_of_user(state["cookie"], user)


def _token_of_user(cookie: str, user: str) -> str:
    """Return a token that only a browser with this cookie has, and only for this user."""
    return hmac.new(cookie.encode(), b"bindings console user " + user.encode(), hashlib.sha256).hexdigest()


async def _form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Return the fields of a form from one of our own pages; the last value of a repeated field counts."""
    if not _is_same_origin(request):
        raise CsrfError
    try:
        pairs = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=problems.MAX_FIELDS
        )
    except ValueError:
        raise problems.Malformed("the form cannot be read; nothing was done") from None
    fields = {name: value.strip() for name, value in pairs}
    expected = csrf_token(request.scope["state"]["token"])
    if not hmac.compare_digest(fields.pop(CSRF, "").encode(), expected.encode()):
        raise CsrfError
    return fields


_PORTS = {"http": 80, "https": 443}


def _is_same_origin(request: Request[Any, Any, Any]) -> bool:
    """Return whether the form comes from this site, by `Sec-Fetch-Site` or else by `Origin`.

    True if the client sends neither: then only the CSRF token protects.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True
    parts = urlsplit(origin)
    # A browser leaves the usual port out; some proxies write it.
    return request.headers.get("host", "").lower() in (parts.netloc, f"{parts.netloc}:{_PORTS.get(parts.scheme)}")
