"""Calls of the API whose path has no parameter, without what the framework does between a request and a handler.

Its routing, layers and responses take as long as the rest of a lookup. The handlers, their permissions and the
authentication are the same objects that the framework has; every other request is passed on to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request
from litestar.routes import HTTPRoute

from bindings.web.api.api_request import authenticate

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar import Litestar, Response
    from litestar.handlers import HTTPRouteHandler

    from bindings.web.middleware import Receive, Scope, Send


class DirectCalls:
    """The ASGI application in front of the framework's. `error_response` makes the response of an exception."""

    def __init__(
        self, app: Litestar, error_response: Callable[[Request[Any, Any, Any], Exception], Response[Any]]
    ) -> None:
        self._app = app
        self._error_response = error_response
        self._handlers = direct_handlers(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the handler of the path and method, or the framework if there is none here."""
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            await self._app(scope, receive, send)  # type: ignore[arg-type]  # ASGI's own types differ in name only
            return
        scope |= {
            "app": self._app,
            "litestar_app": self._app,
            "path_params": {},
            "path_template": scope["path"],
            "route_handler": handler,
        }
        request: Request[Any, Any, Any] = Request(scope, receive, send)  # type: ignore[arg-type]  # as above
        try:
            await authenticate(request)
            response = await handler.fn(request)
        except Exception as error:  # noqa: BLE001 -- every exception has a response, as in the framework
            response = self._error_response(request, error).to_asgi_response(app=None, request=request)
        await response(scope, receive, send)


def direct_handlers(app: Litestar) -> dict[tuple[str, str], HTTPRouteHandler]:
    """Return by method and path the handlers that need `authenticate` and the request, and no part of the path."""
    return {
        (method, route.path): handler
        for route in app.routes
        if isinstance(route, HTTPRoute) and not route.path_parameters
        for handler in route.route_handlers
        if handler.resolve_before_request() is authenticate and "permissions" in handler.opt
        for method in handler.http_methods
    }
