"""The shapes of what is answered over HTTP, as models: for the OpenAPI document only.

Answers are not built with these models: they are encoded straight from the values of `bindings.binding` and from
the problems. A test holds the two together. What comes in is in `bodies`.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 -- pydantic reads the annotations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bindings.domain.binding import EventKind, Mode, State  # noqa: TC001 -- as above

MASKED = "Masked, except for whoever gave it and after a reveal."


class Binding(BaseModel):
    """A binding as recorded. `active` counts only while `expires_at` is ahead and no unbind was asked for."""

    id: str
    mode: Mode
    phone_a: Annotated[str, Field(description=MASKED)]
    phone_b: Annotated[str, Field(description=MASKED)]
    pool_number: str
    app_id: str
    scope: str
    reference: str | None
    idempotency_key: str | None
    expire_s: int
    warn_s: int | None
    bind_id: Annotated[str | None, Field(description="The provider's id.")]
    middle_number_a: Annotated[str | None, Field(description="What A sees and calls.")]
    middle_number_b: Annotated[str | None, Field(description="What B sees and calls.")]
    state: State
    provider_status: str | None
    reason: str | None
    actor: Annotated[str, Field(description="Who asked for it.")]
    request_id: str | None
    requested_at: datetime
    send_by: datetime
    settle_by: Annotated[datetime, Field(description="A pending binding past this is in doubt.")]
    sent_at: datetime | None
    answered_at: datetime | None
    expires_at: Annotated[
        datetime | None, Field(description="The earliest instant at which the provider may end it.")
    ]
    held_until: Annotated[
        datetime, Field(description="The latest instant at which the provider may hold the phones.")
    ]
    unbind_requested_at: datetime | None
    ended_at: datetime | None
    version: int


class Bindings(BaseModel):
    """A page of bindings, newest first; `next_cursor` is null at the end."""

    data: list[Binding]
    next_cursor: str | None


class Found(BaseModel):
    """The bindings that are active now, newest first."""

    data: list[Binding]


class Event(BaseModel):
    """One line of the append-only history. It never carries a phone."""

    cursor: str
    binding_id: str | None
    sequence: Annotated[int, Field(description="Counts the events of a binding from 1 without a gap.")]
    kind: EventKind
    at: datetime
    actor: str
    request_id: str | None
    detail: dict[str, Any]


class Events(BaseModel):
    """Events in the order in which they became final; `next_cursor` is never null: ask again with it."""

    data: list[Event]
    next_cursor: str


class History(BaseModel):
    """Every event of a binding, in order; there is no further page."""

    data: list[Event]
    next_cursor: None


class Holder(BaseModel):
    """Who holds a phone that was asked for; without an id it is nobody of ours, or not yours to see."""

    id: str | None
    actor: Annotated[str | None, Field(description="Who asked for it.")]
    reference: str | None
    mode: Mode | None
    state: State | None
    held_until: datetime
    retry_after_s: int
    why: str


class Holders(BaseModel):
    """Who would refuse such a bind now; empty where nobody would."""

    data: list[Holder]


class TraceHolder(BaseModel):
    """A binding that had the middle number."""

    binding: Binding
    certainty: Literal["certain", "possible"]


class NearMiss(BaseModel):
    """A binding that ended shortly before, or began shortly after."""

    binding: Binding
    relation: Literal["ended", "began"]
    at: datetime
    offset_s: float


class TraceResponse(BaseModel):
    """Who had the middle number at that instant, and who missed it."""

    holders: list[TraceHolder]
    near_misses: list[NearMiss]


class Fault(BaseModel):
    """One wrong field. Its value is never repeated."""

    field: str
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="Stable; the same in Python and on the command line.")]
    request_id: str
    may_have_acted: Annotated[bool, Field(description="Whether the provider may have acted.")]
    safe_to_retry: Annotated[bool, Field(description="Whether the same call may be made again as it is.")]
    binding_id: str | None = None
    retry_after_s: int | None = None
    errors: list[Fault] | None = None
    holder: Holder | None = None
    provider_status: str | None = None
    provider_reason: str | None = None
    checks: Annotated[list[dict[str, Any]] | None, Field(description="Of readiness only.")] = None


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """What was looked at."""

    status: Literal["ok"]
    checks: list[dict[str, Any]]
