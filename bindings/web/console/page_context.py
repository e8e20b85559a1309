"""One visit to a page: who comes, what their form says, and what every answer carries.

Nothing under the console answers in another way than through here, so that no page can forget its headers. A
page loads nothing but our own style and script; neither stands in the page itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from litestar import MediaType, Response
from litestar.datastructures import Cookie
from litestar.response import Redirect

from bindings.domain.roles import Permission
from bindings.errors import InvalidRequest
from bindings.web.console import security, templating, time_zones
from bindings.web.request import ServiceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request

    from bindings.domain.binding import Binding
    from bindings.web.auth import Principal

Answer = TypeVar("Answer")
Reply = Response[Any]

OWN_OR_ALL = (Permission.BIND, Permission.READ)
ZONE_COOKIE = "bindings_zone"
ZONE_KEPT_S = 365 * 24 * 3_600
HSTS = "max-age=31536000"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Not "no-referrer": a browser would then hide the origin of our own forms from us.
    "Referrer-Policy": "same-origin",
}


class PageContext(ServiceRequest):
    """A request to the console, after the door has let it in."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        super().__init__(request)
        self.form: dict[str, str] = self.state.get("form", {})
        self.now = datetime.now(UTC)  # for words such as "3 min ago" only
        self.zone = self._zone()

    @property
    def token(self) -> str:
        """The browser's token."""
        return str(self.state["token"])

    @property
    def over_tls(self) -> bool:
        """Whether the browser's connection is encrypted."""
        return self.app_state.proxies.over_tls(self.request.scope)

    @property
    def address(self) -> str:
        """Where the browser is."""
        return self.app_state.proxies.address(self.request.scope)

    @property
    def actor_filter(self) -> str | None:
        """Whose bindings are all that is shown: None for readers, who see everything."""
        who = self.require_principal
        return None if who.has_permission(Permission.READ) else who.actor

    @property
    def require_principal(self) -> Principal:
        """Who is signed in."""
        if self.principal is None:
            raise security.SignInNeeded
        return self.principal

    def may(self, permission: Permission) -> bool:
        """Whether the caller's role allows it."""
        return self.principal is not None and self.principal.has_permission(permission)

    def sees_phones(self, binding: Binding) -> bool:
        """Whether the binding's phones are shown in full without being asked for."""
        return self.require_principal.sees_phones(binding)

    def page(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Reply:
        """A page."""
        csrf = security.csrf(self.token) if "token" in self.state else ""
        html = templating.render(template, visit=self, csrf=csrf, request_id=self.state["request_id"], **values)
        return self.add_headers(
            Response(html, status_code=status, media_type=MediaType.HTML, headers=dict(headers or {}))
        )

    def redirect(self, path: str) -> Reply:
        """Go to another page, with GET."""
        return self.add_headers(Redirect(path, status_code=303))

    def add_headers(self, answer: Reply) -> Reply:
        """An answer with the headers that every one of the console has, and the token's cookie where it is new."""
        for name, value in HEADERS.items():
            answer.headers[name] = value
        if self.over_tls:
            answer.headers["Strict-Transport-Security"] = HSTS
        if self.state.get("token_is_new"):
            self.set_session_cookie(answer, self.token)
        return answer

    def set_session_cookie(self, answer: Reply, token: str) -> None:
        """Put a token into the browser; it goes when the browser is closed."""
        self.state["token"], self.state["token_is_new"] = token, False
        answer.set_cookie(
            Cookie(
                key=security.cookie(over_tls=self.over_tls),
                value=token,
                httponly=True,
                samesite="lax",  # a link from a ticket arrives signed in; every change is a POST, which does not
                secure=self.over_tls,
            )
        )

    def set_zone_cookie(self, answer: Reply, zone: time_zones.Zone) -> Reply:
        """Show times in this zone from now on."""
        cookie = Cookie(
            key=ZONE_COOKIE,
            value=zone.name.replace("/", "."),  # a cookie's value takes no slash unquoted
            max_age=ZONE_KEPT_S,
            httponly=True,
            samesite="lax",
            secure=self.over_tls,
        )
        answer.set_cookie(cookie)
        return answer

    @property
    def zone_chosen(self) -> bool:
        """Whether somebody chose the zone; else the browser's own is suggested."""
        return ZONE_COOKIE in self.request.cookies

    def _zone(self) -> time_zones.Zone:
        try:
            return time_zones.zone(self.request.cookies.get(ZONE_COOKIE, "").replace(".", "/"))
        except InvalidRequest:
            return time_zones.DEFAULT
