"""What the handlers of the API and of the console share: a request with its principal and its service.

The routes are in `api` and `console`; what is checked before a handler runs is in `middleware` and `auth`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from bindings.domain.binding import Caller
from bindings.web import problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar import Request

    from bindings.service import BindingService
    from bindings.web.auth import Principal
    from bindings.web.state import AppState

Params = ParamSpec("Params")
Result = TypeVar("Result")


class ServiceRequest:
    """A request to a handler. Everything that it does is recorded in the principal's name."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self.app_state: AppState = request.app.state.app_state
        self.request = request

    @property
    def state(self) -> dict[str, Any]:
        """Return the values that belong to this request only: its id, its body, its principal."""
        state: dict[str, Any] = self.request.scope["state"]
        return state

    @property
    def request_id(self) -> str:
        """Return the id of the request in logs, history and response."""
        return str(self.state["request_id"])

    @property
    def principal(self) -> Principal | None:
        """Return the authenticated caller, or None if the route needs none."""
        return self.state.get("principal")

    @property
    def require_principal(self) -> Principal:
        """Return the authenticated caller; raises `Unauthenticated` if there is none."""
        principal: Principal | None = self.state.get("principal")
        if principal is None:
            raise problems.Unauthenticated
        return principal

    @property
    def service(self) -> BindingService:
        """Return the service in the principal's name: actor, key and request id go into the history."""
        principal = self.require_principal
        caller = Caller(actor=principal.actor, request_id=self.request_id, key_id=principal.key_id)
        service = self.app_state.service
        return type(service)(service.runtime.for_caller(caller))

    def allowed_methods(self) -> set[str]:
        """Return the methods that the path of the request has."""
        template, routes = self.request.scope.get("path_template"), self.request.app.routes
        return {method for route in routes if route.path_format == template for method in route.methods}

    async def run_read(
        self,
        query: Callable[Concatenate[BindingService, Params], Result],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Result:
        """Return `query(service, ...)`, run on a thread for reads; raises as `Executors.run_read_for` does."""
        caller = self.require_principal.actor
        return await self.app_state.executors.run_read_for(caller, query, self.service, *args, **kwargs)
