"""What a client may send over HTTP: the fields of bodies and queries, and the functions that read them.

A model lists the fields of a request for the OpenAPI document, and which of them are required. The functions check
names (unknown, missing, repeated) and that text is text; values are checked by `bindings.validation`, the same for
Python, the command line and HTTP. The limits in the document are those of `bindings.validation.fields`. Responses
are in `schemas`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable  # noqa: TC003 -- msgspec reads the annotations at run time
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_type_hints

from msgspec import NODEFAULT, Meta, Struct, structs

from bindings.domain.access_log import HELP as ACCESS_HELP
from bindings.domain.access_log import AccessKind
from bindings.domain.binding import Mode, State
from bindings.domain.selection import MAX_TOKEN
from bindings.errors import FieldError, InvalidRequest
from bindings.validation import requests as validation
from bindings.validation.fields import LIMITS, MAX_EXPIRE_S, MAX_LIMIT, MAX_WAIT_S, MAX_WINDOW_S
from bindings.web import problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from msgspec.structs import FieldInfo

REVEAL = "reveal"  # the only field of a body that is an object
REPEATED = "is given more than once"
BYTE_ORDER_MARK = "\ufeff"
MAX_DIGITS = 18  # of a whole number in a query; no value may have more
LINE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"


def _line(name: str, description: str) -> Meta:
    """Return the description of a text on one line, as long as the field of this name allows."""
    return Meta(description=description, min_length=1, max_length=LIMITS[name], pattern=LINE_PATTERN)


PhoneText = Annotated[
    str,
    Meta(description="Digits in international form; a leading + is stripped.", pattern=r"^\+?[1-9][0-9]{0,19}$"),
]
NumberText = Annotated[str, Meta(description="A middle number, digits.", pattern=r"^\+?[0-9]{1,32}$")]
PoolText = Annotated[str, Meta(description="The pool's name.", pattern=r"^[0-9A-Za-z_.+-]{1,20}$")]
ModeText = Annotated[
    str,
    Meta(
        description="AXB: both parties call the same middle number. AXXB: each has their own.",
        extra_json_schema={"enum": [mode.value for mode in Mode]},
    ),
]
StateText = Annotated[
    str,
    Meta(
        description="The state as recorded; one recorded as active may be past its end: see `active`.",
        extra_json_schema={"enum": [state.value for state in State]},
    ),
]
AccessKindText = Annotated[
    str,
    Meta(
        description="The kind of the entry. export_masked: also an export of a list without phones. session: an"
        " act that concerns a session of the console; act: every other administrative act.",
        extra_json_schema={"enum": [kind.value for kind in AccessKind]},
    ),
]
InstantText = Annotated[
    str,
    Meta(
        description="An instant with its zone (RFC 3339); one without a zone is refused.",
        extra_json_schema={"format": "date-time"},
    ),
]
Limit = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=MAX_LIMIT)]
Reference = Annotated[str, _line("reference", "Your order id.")]
ReferencePrefix = Annotated[str, _line("reference", "The beginning of your order id.")]
AppId = Annotated[
    str, _line("app_id", "The provider's application; if left out, the one that the service is configured with.")
]
IdempotencyKey = Annotated[str, _line("idempotency_key", "The key that the bind was sent with.")]
Active = Annotated[bool, Meta(description="True: active now, as in a lookup. False: all others.")]
BindId = Annotated[str, _line("bind_id", "The provider's id of the binding.")]
ProviderStatus = Annotated[
    str, _line("provider_status", "The provider's status that decided the state, such as -41.")
]
StateReason = Annotated[str, _line("state_reason", "The `reason` of the binding, such as never_sent.")]
Actor = Annotated[str, _line("actor", "The actor that requested the binding.")]
ReasonText = Annotated[str, _line("reason", "The reason; it is recorded in the history.")]
Cursor = Annotated[str, Meta(description="`next_cursor` of the previous page.")]


class RequestModel(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of a body or of a query."""

    # Raises `InvalidRequest` if the service would refuse the values: of every field but `reveal`, by name.
    validate: ClassVar[Callable[..., object]]


class Bind(RequestModel):
    """Two phones to connect for a limited time."""

    phone_a: PhoneText
    phone_b: PhoneText
    pool_number: PoolText
    expire_s: Annotated[int, Meta(description="Seconds to live, at most 72 h.", ge=1, le=MAX_EXPIRE_S)]
    mode: ModeText
    max_expire_s: (
        Annotated[
            int,
            Meta(
                description="Seconds for which the provider is asked, at least expire_s: until then the binding"
                " can be extended. If left out, it cannot be extended.",
                ge=1,
                le=MAX_EXPIRE_S,
            ),
        ]
        | None
    ) = None
    app_id: AppId | None = None
    reference: Reference | None = None
    warn_s: (
        Annotated[
            int,
            Meta(
                description="Seconds before the end at which an expires_soon event is written; 0 for none;"
                " if left out, the service's default.",
                ge=0,
                le=MAX_EXPIRE_S - 1,
            ),
        ]
        | None
    ) = None

    validate = staticmethod(lambda **values: validation.bind_request(**_with_any_app_id(values)))


class Replace(RequestModel):
    """What the successor of a binding is to have; what is left out is as in the binding that is replaced."""

    phone_a: PhoneText | None = None
    phone_b: PhoneText | None = None
    pool_number: PoolText | None = None
    expire_s: (
        Annotated[int, Meta(description="Seconds to live, counted from now.", ge=1, le=MAX_EXPIRE_S)] | None
    ) = None
    mode: ModeText | None = None
    max_expire_s: (
        Annotated[
            int,
            Meta(description="Seconds for which the provider is asked, at least expire_s.", ge=1, le=MAX_EXPIRE_S),
        ]
        | None
    ) = None
    reference: Reference | None = None
    force: (
        Annotated[
            bool,
            Meta(
                description="True: end the binding also if the provider had no number left in the pool less than a"
                " minute ago. Then there may be no successor."
            ),
        ]
        | None
    ) = False

    validate = staticmethod(validation.replacement)


class Unbind(RequestModel):
    """Why a binding is ended early, and when."""

    reason: ReasonText | None = None
    after_s: (
        Annotated[
            int,
            Meta(
                description="Seconds from now at which it ends, if that is sooner; if left out, it ends now.",
                ge=1,
                le=MAX_EXPIRE_S,
            ),
        ]
        | None
    ) = None

    validate = staticmethod(validation.unbind)


class UnbindAll(RequestModel):
    """A phone, a middle number or a reference whose bindings are all ended, and why."""

    reason: ReasonText
    phone: PhoneText | None = None
    middle_number: NumberText | None = None
    reference: Reference | None = None
    dry_run: Annotated[bool, Meta(description="True: only list the bindings; nothing is changed.")] | None = False
    token: (
        Annotated[
            str,
            Meta(
                description="The token of a dry run: end no binding that it did not list.",
                max_length=MAX_TOKEN,
                pattern=r"^[A-Za-z0-9_-]+$",
            ),
        ]
        | None
    ) = None

    validate = staticmethod(validation.unbind_all)


class Extend(RequestModel):
    """Until when a binding is to live."""

    expire_s: Annotated[int, Meta(description="Seconds to live, from now on.", ge=1, le=MAX_EXPIRE_S)]

    validate = staticmethod(validation.extension)


class Check(RequestModel):
    """A bind to check without reserving anything."""

    phone_a: PhoneText
    phone_b: PhoneText
    mode: ModeText
    app_id: AppId | None = None

    validate = staticmethod(lambda **values: validation.check_request(**_with_any_app_id(values)))


class Reveal(RequestModel):
    """Why full phones are needed: it is recorded with your name before they are shown."""

    reason: ReasonText

    validate = staticmethod(lambda *, reason: validation.reason(reason))


class Lookup(RequestModel):
    """A phone; or a reference; or a middle number, and optionally the phone that calls it."""

    phone: PhoneText | None = None
    middle_number: NumberText | None = None
    party: PhoneText | None = None
    reference: Reference | None = None
    reveal: Reveal | None = None

    validate = staticmethod(validation.lookup)


class Trace(RequestModel):
    """A middle number and an instant that is not later than now."""

    middle_number: NumberText
    at: InstantText
    party: PhoneText | None = None
    window_s: (
        Annotated[
            float,
            Meta(description="Seconds around `at` within which a near miss is shown.", ge=0, le=MAX_WINDOW_S),
        ]
        | None
    ) = 300.0
    reveal: Reveal | None = None

    validate = staticmethod(validation.trace)


class Filters(RequestModel):
    """What a binding must match: all of the filters. Without any filter every binding matches."""

    state: StateText | None = None
    provider_status: ProviderStatus | None = None
    state_reason: StateReason | None = None
    active: Active | None = None
    mode: ModeText | None = None
    reference: Reference | None = None
    reference_prefix: ReferencePrefix | None = None
    bind_id: BindId | None = None
    pool_number: PoolText | None = None
    app_id: AppId | None = None
    requested_from: InstantText | None = None
    requested_to: InstantText | None = None
    cursor: Cursor | None = None
    limit: Limit | None = 50

    validate = staticmethod(validation.filters)


class Search(Filters):
    """The filters of a list, and those that must not stand in an address: numbers and actors."""

    phone: PhoneText | None = None
    middle_number: NumberText | None = None
    idempotency_key: IdempotencyKey | None = None
    actor: Actor | None = None
    reveal: Reveal | None = None


class Refusals(RequestModel):
    """What a refused bind must match: all of the filters. Without any filter every one matches."""

    reference: Reference | None = None
    reference_prefix: ReferencePrefix | None = None
    phone: PhoneText | None = None
    request_id: Annotated[str, _line("request_id", "The id of the request.")] | None = None
    actor: Actor | None = None
    cursor: Cursor | None = None
    limit: Limit | None = 50

    validate = staticmethod(validation.refusal_filters)


class AccessLogSearch(RequestModel):
    """What an entry of the access log must match: all of the filters. Without any filter every one matches."""

    kind: AccessKindText | None = None
    actor: Annotated[str, _line("actor", "Who acted.")] | None = None
    key_id: Annotated[str, Meta(description="The id of the API key that acted.")] | None = None
    binding_id: Annotated[str, Meta(description=ACCESS_HELP["binding_id"])] | None = None
    reason_prefix: Annotated[str, _line("reason", "The beginning of the reason.")] | None = None
    since: InstantText | None = None
    until: InstantText | None = None
    cursor: Cursor | None = None
    limit: Limit | None = 50

    validate = staticmethod(validation.access_filters)


class Feed(RequestModel):
    """A position in the change feed."""

    after: (
        Annotated[
            str,
            Meta(
                description="`next_cursor` of the previous page, or `latest` for the end of the feed: then only"
                " later events follow. If left out, the beginning of the feed.",
                pattern=r"^([0-9]{1,18}-[0-9]{1,18}|latest)$",
            ),
        ]
        | None
    ) = None
    limit: Limit = 100
    wait_s: Annotated[
        float, Meta(description="Seconds to wait for an event if there is none yet.", ge=0, le=MAX_WAIT_S)
    ] = 0.0

    validate = staticmethod(validation.feed)


def _with_any_app_id(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in an application for the check: the service adds its own later."""
    return values | {"app_id": "any" if values["app_id"] is None else values["app_id"]}


def read_body(
    model: type[RequestModel], raw: bytes, *, header_errors: Sequence[FieldError] = ()
) -> dict[str, Any]:
    """Return the fields of a body, with defaults, as arguments for the service. An optional field may be null.

    Raises `Malformed` if the body is not JSON, and `InvalidRequest` with every field error if a name or a type is
    wrong: then the values are checked too, and `header_errors` are listed with them. A body with too many fields
    is refused without a look at them.
    """
    repeated: list[str] = []
    values = _parse_json(raw or b"{}", repeated)
    if not isinstance(values, dict):
        raise InvalidRequest([FieldError("body", "must be an object"), *header_errors])
    _check_names(model, values, repeated, header_errors)
    return _defaults(model) | _without_nulls(model, values)


def _without_nulls(model: type[RequestModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without those of optional fields that are null: such a field counts as left out."""
    types = _types(model)
    return {
        name: value for name, value in values.items() if value is not None or NoneType not in types.get(name, ())
    }


def read_query(model: type[RequestModel], parameters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the parameters of a query, with defaults, as arguments; raises as `read_body` does."""
    values = {name: _QUERY_TYPES.get(name, str)(texts[0]) for name, texts in parameters.items()}
    _check_names(model, values, [name for name, texts in parameters.items() if len(texts) > 1])
    return _defaults(model) | values


def _parse_json(raw: bytes, repeated: list[str]) -> Any:
    """Return the value of a JSON text, and add repeated names to `repeated`: parsers disagree which one wins.

    The parsing ends as soon as there are too many fields, each object counted as one more.
    """
    size = 0

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal size
        size += 1 + len(pairs)
        if size > 1 + problems.MAX_FIELDS:
            raise problems.too_many_fields("body")
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return values

    try:
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=make_object)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a ValueError if half of a surrogate pair is missing
    except json.JSONDecodeError as error:
        if text.startswith(BYTE_ORDER_MARK):
            raise problems.Malformed("the body begins with a byte order mark; nothing was done") from None
        place = f"line {error.lineno}, column {error.colno}"
        raise problems.Malformed(f"the body is not JSON from {place} on; nothing was done") from None
    except UnicodeDecodeError:
        raise problems.Malformed("the body is not UTF-8; nothing was done") from None
    except (ValueError, RecursionError):
        raise problems.Malformed from None
    return value


def _check_names(
    model: type[RequestModel],
    values: dict[str, Any],
    repeated: Sequence[str],
    header_errors: Sequence[FieldError] = (),
) -> None:
    """Raise `InvalidRequest` if a name or a type is wrong or a name is repeated, with all other field errors."""
    errors = _name_errors(model, values)
    if not errors and not repeated:
        return
    errors = problems.name_errors(repeated, REPEATED) + errors
    invalid = {error.field for error in errors}
    complete = dict.fromkeys(_fields(model)) | _defaults(model) | _without_nulls(model, values)
    checked = {name: complete[name] for name in _fields(model) if name != REVEAL}
    try:
        model.validate(**checked)
    except InvalidRequest as error:
        errors += [fault for fault in error.field_errors if fault.field not in invalid]
    raise InvalidRequest([*errors, *header_errors])


def _name_errors(model: type[RequestModel], values: dict[str, Any], prefix: str = "") -> list[FieldError]:
    """Return an error for each name that is missing or unknown, and for each value of the wrong type."""
    errors = [FieldError(prefix + name, "is needed") for name in _required(model) if name not in values]
    types = _types(model)
    unknown = [prefix + name for name in values if name not in types]
    if model in (Bind, Replace) and "idempotency_key" in unknown:
        unknown.remove("idempotency_key")
        errors.append(FieldError("idempotency_key", "is not a field: send it as the header Idempotency-Key"))
    errors += problems.name_errors(unknown, problems.UNKNOWN_FIELD)
    for name in filter(types.__contains__, values):
        value = values[name]
        if name == REVEAL and isinstance(value, dict):
            errors += _name_errors(Reveal, value, f"{REVEAL}.")
        elif (message := _type_error(types[name], value)) is not None:
            errors.append(FieldError(prefix + name, message))
    return errors


def _type_error(types: tuple[Any, ...], value: object) -> str | None:
    """Return what the value must be if it is not of these types; whether a number is one, validation checks."""
    if value is None and NoneType in types:
        return None
    if Reveal in types:
        return "must be an object"
    if str in types:
        return None if isinstance(value, str) else "must be text"
    if bool in types:
        return None if isinstance(value, bool | str) else "must be true or false"
    return "must be a number" if isinstance(value, dict | list) else None


@cache
def _fields(model: type[RequestModel]) -> dict[str, FieldInfo]:
    return {field.name: field for field in structs.fields(model)}


@cache
def _required(model: type[RequestModel]) -> list[str]:
    return [name for name, field in _fields(model).items() if field.required]


@cache
def _types(model: type[RequestModel]) -> dict[str, tuple[Any, ...]]:
    """Return the types that a field accepts, by its name; `NoneType` is one of them if it may be null."""
    hints = get_type_hints(model)
    return {name: get_args(hints[name]) or (hints[name],) for name in _fields(model)}


@cache
def _defaults(model: type[RequestModel]) -> dict[str, Any]:
    """Return the defaults that are not null, which no caller may change."""
    return {
        name: field.default for name, field in _fields(model).items() if field.default not in (None, NODEFAULT)
    }


def _integer(text: str) -> int | str:
    """Return the number, or the text for validation to refuse: 1_0 and 10.0 are not accepted."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else text


def _boolean(text: str) -> bool | str:
    """Return True or False, or the text for validation to refuse."""
    return {"true": True, "false": False}.get(text, text)


def _decimal(text: str) -> float | str:
    """Return the number, or the text for validation to refuse."""
    try:
        return float(text) if text.isascii() else text
    except ValueError:
        return text


_QUERY_TYPES: dict[str, Callable[[str], Any]] = {"active": _boolean, "limit": _integer, "wait_s": _decimal}
