"""Django: lend a number to a trip, and say whom to ring when it is called."""

import json
from collections.abc import Callable
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from bindings import BindingsError, BindingService

service = BindingService.open(actor="rides", connect=False)  # commands such as `collectstatic` need no database


@csrf_exempt
@require_POST
def lend_number(request: HttpRequest, trip_id: str) -> HttpResponse:
    """Return the number that each party sees. Safe to repeat."""
    trip = json.loads(request.body)
    binding = service.bind(
        phone_a=trip["rider"],
        phone_b=trip["driver"],
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference=trip_id,
        idempotency_key=f"{trip_id}/1",
    )
    return JsonResponse(
        {
            "state": binding.state,
            "rider_sees": binding.middle_number_a,
            "driver_sees": binding.middle_number_b,
        }
    )


@csrf_exempt
@require_POST
def route_call(request: HttpRequest) -> HttpResponse:
    """Return the phone to ring, and the number to show to it."""
    call = json.loads(request.body)
    bindings = service.lookup(middle_number=call["dialled"], party=call["caller"])
    if not bindings:
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    ring = bindings[0].counterpart(call["caller"])
    return JsonResponse({"ring": ring.digits, "show": bindings[0].middle_number_for(ring)})


urlpatterns = [
    path("trips/<trip_id>/number", lend_number),
    path("calls", route_call),
]


class BindingsErrors:
    """Middleware: answer with the problem and when to try again; 202 for a bind whose outcome is not known yet."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Return the answer of the view."""
        return self.get_response(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer an error of bindings; leave every other one to Django."""
        if not isinstance(error, BindingsError):
            return None
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return JsonResponse(error.problem(), status=error.http_status, headers=headers)
