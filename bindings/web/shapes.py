"""What goes in and out over HTTP, as models: bodies are read with them, and the OpenAPI document shows them.

A body says which fields there are and of which type; unknown ones are refused. Whether a value is good is
decided in `bindings.validation`, the same for every way in. Answers are not built with these models (they are
encoded straight from the values of `bindings.binding`); a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 -- pydantic reads the annotations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bindings import validation
from bindings.binding import EventKind, Mode, State
from bindings.validation import LIMITS, MAX_EXPIRE_S, MAX_LIMIT, MAX_WAIT_S, MAX_WINDOW_S

LINE = r"^[^\x00-\x1f\x7f]+$"
_PHONE = {"pattern": r"^\+?[0-9]{1,20}$"}
_NUMBER = {"pattern": r"^\+?[0-9]{1,32}$"}
_POOL = {"pattern": r"^[0-9A-Za-z_.+-]{1,20}$"}


def _line(name: str) -> dict[str, Any]:
    return {"minLength": 1, "maxLength": LIMITS[name], "pattern": LINE}


# For the document only: `bindings.validation` refuses what does not fit, in its own words.
PhoneText = Annotated[
    str,
    Field(description="Digits in international form; a leading + is stripped.", json_schema_extra=_PHONE),
]
NumberText = Annotated[str, Field(description="A middle number, digits.", json_schema_extra=_NUMBER)]
PoolText = Annotated[str, Field(description="The pool's name.", json_schema_extra=_POOL)]
ModeText = Annotated[
    str,
    Field(
        description="AXB: both parties call the same middle number. AXXB: each has their own.",
        json_schema_extra={"enum": [mode.value for mode in Mode]},
    ),
]
StateText = Annotated[
    str, Field(description="Where it stands.", json_schema_extra={"enum": [state.value for state in State]})
]
InstantText = Annotated[
    str,
    Field(
        description="An instant with its zone (RFC 3339); one without a zone is refused.",
        json_schema_extra={"format": "date-time"},
    ),
]


def _plain(value: Any) -> Any:
    """A number of a query as everybody writes it: not 1_0, and not 10.0."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a whole number")
    return value


Limit = Annotated[
    int,
    BeforeValidator(_plain),
    Field(description="The most to return.", json_schema_extra={"minimum": 1, "maximum": MAX_LIMIT}),
]
Reference = Annotated[str, Field(description="Your order id.", json_schema_extra=_line("reference"))]
AppId = Annotated[
    str,
    Field(
        description="The provider's application; the service's own where it is left out.",
        json_schema_extra=_line("app_id"),
    ),
]
BindId = Annotated[str, Field(description="The provider's id.", json_schema_extra=_line("bind_id"))]
Why = Annotated[str, Field(description="Why; it goes into the history.", json_schema_extra=_line("reason"))]
Cursor = Annotated[str, Field(description="`next_cursor` of the page before.")]


def _without_reveal(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "reveal"}


class Asked(BaseModel):
    """What a caller sends, in a body or in a query."""

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Raise `InvalidRequest` for values that are no good: to name them beside fields of a wrong type."""


class Body(Asked):
    """What stands in a body. Types are taken as they are: "60" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def given(self) -> dict[str, Any]:
        """The fields that were sent, and are not null."""
        return self.model_dump(exclude_none=True)


class Bind(Body):
    """Two phones that are to be connected for a while."""

    phone_a: PhoneText
    phone_b: PhoneText
    pool_number: PoolText
    expire_s: Annotated[
        int,
        Field(
            description="Seconds to live, at most 72 h.",
            json_schema_extra={"minimum": 1, "maximum": MAX_EXPIRE_S},
        ),
    ]
    mode: ModeText
    app_id: AppId | None = None
    reference: Reference | None = None
    warn_s: (
        Annotated[
            int,
            Field(
                description="Seconds before the end at which an expires_soon event is written; 0 for none;"
                " the service's default where it is left out.",
                json_schema_extra={"minimum": 0, "maximum": MAX_EXPIRE_S - 1},
            ),
        ]
        | None
    ) = None

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Hold the values against the rules of a bind; the application may yet come from the settings."""
        validation.bind_request(**given | {"app_id": "any" if given["app_id"] is None else given["app_id"]})


class Unbind(Body):
    """Why a binding is ended early."""

    reason: Why | None = None


class Check(Body):
    """A bind that is only tried."""

    phone_a: PhoneText
    phone_b: PhoneText
    mode: ModeText
    app_id: AppId | None = None

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Hold the values against the rules of a bind."""
        validation.check_request(**given | {"app_id": "any" if given["app_id"] is None else given["app_id"]})


class Reveal(Body):
    """Why full phones are needed: recorded with your name before they are shown."""

    reason: Why


class Lookup(Body):
    """A phone; or a middle number, and who calls it."""

    phone: PhoneText | None = None
    middle_number: NumberText | None = None
    party: PhoneText | None = None
    reveal: Reveal | None = None

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Hold the values against the rules of a lookup."""
        validation.lookup(**_without_reveal(given))


class Trace(Body):
    """A middle number and an instant."""

    middle_number: NumberText
    at: InstantText
    party: PhoneText | None = None
    window_s: Annotated[
        float,
        Field(description="How near a near miss is.", json_schema_extra={"minimum": 0, "maximum": MAX_WINDOW_S}),
    ] = 300.0
    reveal: Reveal | None = None

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Hold the values against the rules of a trace."""
        window_s = 300 if given["window_s"] is None else given["window_s"]
        validation.trace(**_without_reveal(given) | {"window_s": window_s})


class Filters(Asked):
    """What a binding must match, all of it; without any filter, everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: StateText | None = None
    mode: ModeText | None = None
    reference: Reference | None = None
    bind_id: BindId | None = None
    pool_number: PoolText | None = None
    app_id: AppId | None = None
    requested_from: InstantText | None = None
    requested_to: InstantText | None = None
    cursor: Cursor | None = None
    limit: Limit = 50

    def given(self) -> dict[str, Any]:
        """The filters that were given."""
        return self.model_dump(exclude_none=True, exclude={"reveal"})

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Hold the values against the rules of a search; a limit that is no number is named already."""
        limit = given["limit"] if isinstance(given["limit"], int) else 50
        validation.filters(**_without_reveal(given) | {"limit": limit})


class Search(Filters):
    """The same, and numbers, which may not stand in an address."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    phone: PhoneText | None = None
    middle_number: NumberText | None = None
    actor: Annotated[str, Field(description="Who asked for it.", json_schema_extra=_line("actor"))] | None = None
    reveal: Reveal | None = None


class Feed(Asked):
    """Where to go on in the change feed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: (
        Annotated[
            str,
            Field(
                description="`next_cursor` of the page before; the beginning where it is left out.",
                json_schema_extra={"pattern": r"^[0-9]{1,18}-[0-9]{1,18}$"},
            ),
        ]
        | None
    ) = None
    limit: Limit = 100
    wait_s: Annotated[
        float,
        Field(
            description="Seconds to wait for an event where there is none yet.",
            json_schema_extra={"minimum": 0, "maximum": MAX_WAIT_S},
        ),
    ] = 0.0


# Answers, for the document.

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


class Traced(BaseModel):
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
