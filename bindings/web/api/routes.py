"""The router of the API: every call under /v1, with the authentication that runs before each of them."""

from __future__ import annotations

from litestar import Router

from bindings.web.api import change_routes, feed_routes, query_routes
from bindings.web.api.api_request import authenticate


def router() -> Router:
    """Return the router of all calls under /v1."""
    handlers = [*change_routes.HANDLERS, *query_routes.HANDLERS, *feed_routes.HANDLERS]
    return Router("/v1", route_handlers=handlers, before_request=authenticate, include_in_schema=False)
