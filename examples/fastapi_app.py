"""FastAPI: lend a number to a trip, and say whom to ring when it is called."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from bindings import BindingsError
from bindings.aio import AsyncBindingService

service = AsyncBindingService.open(actor="rides")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Connect before the first request, and wait for calls under way after the last one."""
    async with service:
        yield


app = FastAPI(lifespan=lifespan)


class Trip(BaseModel):
    """The phones of a trip."""

    rider: str
    driver: str


class Call(BaseModel):
    """A call that has come in: from which phone, to which middle number."""

    caller: str
    dialled: str


@app.post("/trips/{trip_id}/number")
async def lend_number(trip_id: str, trip: Trip) -> dict[str, str | None]:
    """Return the number that each party sees. Safe to repeat."""
    binding = await service.bind(
        phone_a=trip.rider,
        phone_b=trip.driver,
        pool_number="918806",
        expire_s=3_600,
        mode="AXB",
        reference=trip_id,
        idempotency_key=f"{trip_id}/1",
    )
    return {
        "state": binding.state,
        "rider_sees": binding.middle_number_a,
        "driver_sees": binding.middle_number_b,
    }


@app.post("/calls")
async def route_call(call: Call) -> dict[str, str | None]:
    """Return the phone to ring, and the number to show to it."""
    bindings = await service.lookup(middle_number=call.dialled, party=call.caller)
    if not bindings:
        raise HTTPException(404)
    ring = bindings[0].counterpart(call.caller)
    return {"ring": ring.digits, "show": bindings[0].middle_number_for(ring)}


@app.exception_handler(BindingsError)
async def answer_error(_: Request, error: BindingsError) -> JSONResponse:
    """Answer with the problem and when to try again; 202 for a bind whose outcome is not known yet."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JSONResponse(error.problem(), error.http_status, headers)
