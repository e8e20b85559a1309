"""What the handlers under /v1 share: who may call them, and a request with its body, its query and its principal.

The handlers are in `change_routes`, `query_routes` and `feed_routes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from litestar import Request, Response

from bindings import errors
from bindings.domain.binding import Binding
from bindings.domain.roles import Permission
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.web import problems
from bindings.web.api import requests, samples
from bindings.web.api.operations import ResponseDoc
from bindings.web.request import ServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bindings.service import BindingService
    from bindings.web.auth import Principal
    from bindings.web.state import AppState

OWN_OR_ALL = (Permission.BIND, Permission.READ)
BINDING = ResponseDoc("The binding.", Binding, samples.BINDING)


async def authenticate(request: Request[Any, Any, Any]) -> Response[None] | None:
    """Find the principal and check the permissions of the route; it runs before every handler.

    It is not a guard: for a guard the framework copies the whole handler at every request. OPTIONS needs no key;
    it is answered here, because the framework's own response lists the methods of the path's first handler only.
    """
    if request.method == "OPTIONS":
        methods = sorted(ServiceRequest(request).allowed_methods())
        return Response(None, status_code=204, headers={"Allow": ", ".join(methods)})
    app_state: AppState = request.app.state.app_state
    principal = await app_state.authenticator.authenticate(request)
    request.scope["state"]["principal"] = principal
    if not principal.has_permission(*request.route_handler.opt["permissions"]):
        raise problems.Forbidden
    return None


class ApiRequest(ServiceRequest):
    """An authenticated request to a route under /v1."""

    @property
    def principal(self) -> Principal:
        """Return the authenticated caller."""
        return self.require_principal

    def body(
        self, model: type[requests.RequestModel], *, header_errors: Sequence[FieldError] = ()
    ) -> dict[str, Any]:
        """Return the fields of the body; raises `Malformed` or `InvalidRequest` (see `requests.read_body`)."""
        self._refuse_query()
        return requests.read_body(model, self.state["body"], header_errors=header_errors)

    def query(self, model: type[requests.RequestModel]) -> dict[str, Any]:
        """Return the parameters of the query; raises as `body` does (see `requests.read_query`)."""
        try:
            unquote_to_bytes(self.request.scope["query_string"]).decode()
        except UnicodeDecodeError:  # the framework would replace these bytes, and a filter would match nothing
            raise problems.Malformed("the query is not UTF-8; nothing was done") from None
        return requests.read_query(model, self.request.query_params.dict())

    def binding_id(self) -> str:
        """Return the id in the path. The log line gets it only if it is a UUID."""
        self._refuse_query()
        binding_id = validation.binding_id(self.request.path_params["binding_id"])
        self.state["binding_id"] = binding_id
        return binding_id

    def visible(self, binding: Binding) -> Binding:
        """Return the binding; raises `NotFound` if the principal may not view it."""
        if not self.principal.can_view(binding):
            raise errors.NotFound(binding_id=binding.id)
        return binding

    def pop_reveal(self, fields: dict[str, Any]) -> str | None:
        """Remove `reveal` from the fields and return its reason, or None if full phones are not requested.

        Raises `Forbidden` if the principal may not see full phones, and `InvalidRequest` if the reason is not
        valid.
        """
        reveal = fields.pop(requests.REVEAL, None)
        if reveal is None:
            return None
        if not self.principal.has_permission(Permission.REVEAL):
            raise problems.Forbidden("the role of this key does not see full phone numbers; nothing was shown")
        return validation.reason(reveal["reason"])

    def _refuse_query(self) -> None:
        """Refuse a query on a call that has none: an ignored parameter may be a filter, or a phone number."""
        if self.request.scope["query_string"]:
            names = list(self.request.query_params.dict()) or [""]
            raise InvalidRequest(problems.name_errors(names, problems.UNKNOWN_FIELD))


def record_reveal(service: BindingService, bindings: Iterable[Binding], reason: str | None) -> bool:
    """Record that full phones are about to be shown, if there is a reason; return whether to show them."""
    binding_ids = [binding.id for binding in bindings]
    if reason is not None and binding_ids:
        service.reveal(binding_ids, reason=reason)
    return reason is not None
