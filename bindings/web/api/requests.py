"""What a caller may send over HTTP, as models: bodies, and the queries of addresses.

They are read with these models, and the OpenAPI document shows them. A model says which fields there are and of
which type; unknown ones are refused. Whether a value is good is decided in `bindings.validation`, the same for
every way in; the limits are those of `bindings.values`. What goes out is in `shapes`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bindings.domain.binding import Mode, State
from bindings.validation import requests as validation
from bindings.validation.fields import LIMITS, MAX_EXPIRE_S, MAX_LIMIT, MAX_WAIT_S, MAX_WINDOW_S

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


def _decimal_integer(value: Any) -> Any:
    """A number of a query as everybody writes it: not 1_0, and not 10.0."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("must be a whole number")
    return value


Limit = Annotated[
    int,
    BeforeValidator(_decimal_integer),
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
ReasonText = Annotated[str, Field(description="Why; it goes into the history.", json_schema_extra=_line("reason"))]
Cursor = Annotated[str, Field(description="`next_cursor` of the page before.")]


def _without_reveal(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "reveal"}


class RequestModel(BaseModel):
    """What a caller sends, in a body or in a query."""

    @classmethod
    def check(cls, given: dict[str, Any]) -> None:
        """Raise `InvalidRequest` for values that are no good: to name them beside fields of a wrong type."""


class Body(RequestModel):
    """What stands in a body. Types are taken as they are: "60" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def to_kwargs(self) -> dict[str, Any]:
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

    reason: ReasonText | None = None


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

    reason: ReasonText


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


class Filters(RequestModel):
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


class Feed(RequestModel):
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
