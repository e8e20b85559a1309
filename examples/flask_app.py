"""Flask: lend a number to a trip, and say whom to ring when it is called. For gunicorn, also with --preload."""

from flask import Flask, Response, abort, jsonify, request

from bindings import BindingsError, BindingService

service = BindingService.open(actor="rides")
app = Flask(__name__)


@app.post("/trips/<trip_id>/number")
def lend_number(trip_id: str) -> Response:
    """Return the number that each party sees. Safe to repeat."""
    trip = request.get_json()
    binding = service.bind(
        phone_a=trip["rider"],
        phone_b=trip["driver"],
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference=trip_id,
        idempotency_key=f"{trip_id}/1",
    )
    return jsonify(state=binding.state, rider_sees=binding.middle_number_a, driver_sees=binding.middle_number_b)


@app.post("/calls")
def route_call() -> Response:
    """Return the phone to ring, and the number to show to it."""
    call = request.get_json()
    bindings = service.lookup(middle_number=call["dialled"], party=call["caller"])
    if not bindings:
        abort(404)
    ring = bindings[0].counterpart(call["caller"])
    return jsonify(ring=ring.digits, show=bindings[0].middle_number_for(ring))


@app.errorhandler(BindingsError)
def answer_error(error: BindingsError) -> Response:
    """Answer with the problem and when to try again; 202 for a bind whose outcome is not known yet."""
    response = jsonify(error.problem())
    response.status_code = error.http_status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response
