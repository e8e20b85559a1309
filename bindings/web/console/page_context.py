"""The context of a console request: principal, form, time zone, and the headers of every response.

Every console route builds its response here, so that no page lacks the security headers. A page loads only our
own stylesheet and script from this host; it contains no inline style and no inline script.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import MediaType, Response
from litestar.datastructures import Cookie
from litestar.response import Redirect

from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest
from bindings.web import problems
from bindings.web.console import security, templating, time_zones
from bindings.web.request import ServiceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request

    from bindings.domain.binding import Binding, RefusedBind
    from bindings.errors import BindingsError
    from bindings.web.auth import Principal

PageResponse = Response[Any]

OWN_OR_ALL = (Permission.BIND, Permission.READ)
ZONE_COOKIE = "bindings_zone"
ZONE_COOKIE_AGE_S = 365 * 24 * 3_600
EXPORT_COOKIE = "bindings_export"
EXPORT_COOKIE_AGE_S = 3_600
REVEAL_COOKIE = "bindings_reveal"
REVEAL_COOKIE_AGE_S = 60
HSTS = "max-age=31536000"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Not "no-referrer": with it a browser would not send the origin of our own forms.
    "Referrer-Policy": "same-origin",
}


class PageContext(ServiceRequest):
    """A request to the console that has passed the page guard.

    `form` is empty unless the request is a POST. `zone` is the time zone in which the page shows times.
    """

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        super().__init__(request)
        self.form: dict[str, str] = self.state.get("form", {})
        self.now = datetime.now(UTC)  # for reading and showing times; never for a decision
        self.zone = self._zone()

    @property
    def token(self) -> str:
        """Return the session token of the browser."""
        return str(self.state["token"])

    @property
    def over_tls(self) -> bool:
        """Return whether the browser's connection is encrypted."""
        return self.app_state.proxies.over_tls(self.request.scope)

    @property
    def page_address(self) -> str:
        """Return the path and query of this page, or the path of the page that has the form that was sent."""
        path, query = quote(self.request.url.path), self.request.url.query
        if self.request.method == "POST" and "GET" not in self.allowed_methods():
            return path.rpartition("/")[0] or "/"
        return f"{path}?{query}" if query else path

    @property
    def address_fields(self) -> dict[str, str]:
        """Return the fields of the address: of one that stands there twice, the last value."""
        return {name: texts[-1] for name, texts in self.request.query_params.dict().items()}

    @property
    def is_dry_run(self) -> bool:
        """Return whether the form asks for a dry run: it does unless it says "run"."""
        return self.form.get("action") != "run"

    @property
    def actor_filter(self) -> str | None:
        """Return the actor whose bindings alone may be shown, or None if the principal may read all."""
        return self.require_principal.actor_filter

    @property
    def require_principal(self) -> Principal:
        """Return the principal. Raise `SignInNeeded` if there is none."""
        if self.principal is None:
            raise security.SignInNeeded
        return self.principal

    def has_permission(self, permission: Permission) -> bool:
        """Return whether the principal's role has the permission; False without a principal."""
        return self.principal is not None and self.principal.has_permission(permission)

    def sees_phones(self, binding: Binding | RefusedBind) -> bool:
        """Return whether the principal sees the binding's phones in full without a reveal."""
        return self.require_principal.sees_phones(binding)

    def render(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> PageResponse:
        """Return a page: the template with `values`, this context, the CSRF token and the request id."""
        csrf = security.csrf_token(self.token) if "token" in self.state else ""
        html = templating.render(template, context=self, csrf=csrf, request_id=self.request_id, **values)
        return self.add_headers(
            Response(html, status_code=status, media_type=MediaType.HTML, headers=dict(headers or {}))
        )

    def render_form(self, template: str, error: BindingsError | None, **values: Any) -> PageResponse:
        """Return a page with a form; with the `error` of what was sent, its status and its headers, if any."""
        if error is None:
            return self.render(template, error=None, **values)
        return self.render(
            template, status=error.http_status, headers=problems.headers(error), error=error, **values
        )

    def redirect(self, path: str) -> PageResponse:
        """Return a redirect to another page, which the browser opens with GET."""
        return self.add_headers(Redirect(path, status_code=303))

    def add_headers(self, response: PageResponse) -> PageResponse:
        """Add the console's security headers and, if the token is new, its cookie. Return the same response."""
        for name, value in HEADERS.items():
            response.headers[name] = value
        if self.over_tls:
            response.headers["Strict-Transport-Security"] = HSTS
        if self.state.get("token_is_new"):
            self._set_cookie(response, str(self.state["cookie"]))
        return response

    def set_session_cookie(self, response: PageResponse, token: str) -> None:
        """Set the cookie of a new session, which lasts until the browser is closed."""
        self.state["token"] = token
        self._set_cookie(response, token)

    def _set_cookie(self, response: PageResponse, token: str) -> None:
        self.state["token_is_new"] = False
        response.set_cookie(
            Cookie(
                key=security.cookie_name(over_tls=self.over_tls),
                value=token,
                httponly=True,
                samesite="lax",  # sent with a link from another site (a ticket), not with a POST from there
                secure=self.over_tls,
            )
        )

    def set_zone_cookie(self, response: PageResponse, zone: time_zones.Zone) -> PageResponse:
        """Set the cookie of the time zone in which pages show times. Return the same response."""
        cookie = Cookie(
            key=ZONE_COOKIE,
            value=zone.name.replace("/", "."),  # a slash in a cookie's value would need quotes
            max_age=ZONE_COOKIE_AGE_S,
            httponly=True,
            samesite="lax",
            secure=self.over_tls,
        )
        response.set_cookie(cookie)
        return response

    def set_export_cookie(self, response: PageResponse, export_id: str) -> PageResponse:
        """Let the page that an export was started from name its manifest. Return the same response.

        A download leaves the page as it is, so the script of the page reads this cookie.
        """
        response.set_cookie(
            Cookie(
                key=EXPORT_COOKIE,
                value=export_id,
                max_age=EXPORT_COOKIE_AGE_S,
                samesite="strict",
                secure=self.over_tls,
            )
        )
        return response

    @property
    def last_export_id(self) -> str | None:
        """Return the id of the export that this browser started last, if it was recently."""
        return self.request.cookies.get(EXPORT_COOKIE)

    def set_reveal_cookie(self, response: PageResponse, binding_id: str) -> PageResponse:
        """Let the next page of the binding show its phones in full, once. Return the same response.

        The cookie is a proof for this session and this binding that the reveal is recorded, and contains no phone.
        """
        proof = security.reveal_proof(self.token, binding_id, int(self.now.timestamp()) + REVEAL_COOKIE_AGE_S)
        return self._set_reveal_cookie(response, binding_id, proof, REVEAL_COOKIE_AGE_S)

    def was_revealed(self, binding_id: str) -> bool:
        """Return whether the browser has the proof of a recorded reveal of the binding."""
        proof = self.request.cookies.get(REVEAL_COOKIE, "")
        return security.is_reveal_proof(self.token, binding_id, proof, int(self.now.timestamp()))

    def clear_reveal_cookie(self, response: PageResponse, binding_id: str) -> PageResponse:
        """Remove the proof of a reveal, because the response shows the phones. Return the same response."""
        return self._set_reveal_cookie(response, binding_id, "", 0)

    def _set_reveal_cookie(
        self, response: PageResponse, binding_id: str, value: str, max_age: int
    ) -> PageResponse:
        cookie = Cookie(
            key=REVEAL_COOKIE,
            value=value,
            path=f"/bindings/{binding_id}",
            max_age=max_age,
            httponly=True,
            samesite="strict",
            secure=self.over_tls,
        )
        response.set_cookie(cookie)
        return response

    @property
    def zone_chosen(self) -> bool:
        """Return whether the user chose a zone; if not, the page suggests the browser's own."""
        return ZONE_COOKIE in self.request.cookies

    def parse_time(self, values: Mapping[str, str], name: str, errors: list[FieldError]) -> datetime | None:
        """Return the time or date that the user typed into a field, or None; add what is wrong to `errors`."""
        try:
            return time_zones.parse(values.get(name, ""), self.zone, self.now, date_alone=True)
        except InvalidRequest as invalid:
            errors += [FieldError(name, error.message) for error in invalid.field_errors]
            return None

    def _zone(self) -> time_zones.Zone:
        try:
            return time_zones.zone(self.request.cookies.get(ZONE_COOKIE, "").replace(".", "/"))
        except InvalidRequest:
            return time_zones.DEFAULT
