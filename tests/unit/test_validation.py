"""Checks of arguments: every invalid value is an error of its field, all are reported, no value is repeated."""

from __future__ import annotations

import dataclasses
import inspect
import math
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import literal_column
from sqlalchemy.dialects import postgresql

from bindings.cli.queries import list_
from bindings.domain.binding import Mode
from bindings.domain.phone import Phone
from bindings.domain.search_filters import BODY_ONLY, HELP, SearchFilters
from bindings.errors import InvalidRequest, NotFound
from bindings.service import BindingService
from bindings.store import queries
from bindings.validation import fields
from bindings.validation import requests as validation
from bindings.web.api import openapi

if TYPE_CHECKING:
    from collections.abc import Callable

VALID: dict[str, Any] = {
    "phone_a": "9188067701",
    "phone_b": "9188067799",
    "pool_number": "918806",
    "expire_s": 60,
    "mode": "AXB",
    "app_id": "4luaKsL2",
}
AT = "2026-11-23T14:32:00Z"
CONTROLS = [
    "a\x00b",
    "a\tb",
    "a\nb",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\x9fb",
    "a\u2028b",
    "a\u2029b",
    "a\u202ab",
    "a\u202eb",
    "a\u2066b",
    "a\u2069b",
    "a\ud800b",
    "a\udfffb",
    "a\ufdd0b",
    "a\uffffb",
    "a\U0001fffeb",
    "a\U0010ffffb",
]
TEXTS = [
    "\u8ba2\u5355\u300042",
    "order\u00a042",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "\u0915\u094d\u200d\u0937",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f",
    "\u845b\U000e0100",
    "a\u200eb",
    "soft\u00adhyphen",
    "\ue000",
]
NAIVE = datetime(2026, 3, 1, 12)  # noqa: DTZ001 -- naive on purpose


class UnknownOffset(tzinfo):
    """A zone that knows no offset: a time with it counts as naive."""

    def utcoffset(self, _: datetime | None) -> None:
        """Return None."""

    def dst(self, _: datetime | None) -> None:
        """Return None."""

    def tzname(self, _: datetime | None) -> None:
        """Return None."""


class Moment(datetime):
    """A subclass, as libraries for dates have one."""


def errors_of_bind(**changes: Any) -> dict[str, str]:
    """Return the messages of a bind with these changes, by field."""
    with pytest.raises(InvalidRequest) as refused:
        validation.bind_request(**(VALID | changes))
    return {error.field: error.message for error in refused.value.field_errors}


def test_documented_example_is_valid() -> None:
    request = validation.bind_request(**VALID)
    assert (request.phone_a.digits, request.phone_b.digits, request.mode) == ("9188067701", "9188067799", Mode.AXB)


def test_phone_with_and_without_plus_normalises_to_the_same_request() -> None:
    plus = validation.bind_request(**(VALID | {"phone_a": "+9188067701", "phone_b": "+9188067799"}))
    assert plus == validation.bind_request(**VALID)


INVALID_PHONES: list[object] = [
    "",
    "+",
    "1" * 21,
    "\uff19\uff11\uff18\uff18\uff10\uff16",
    "+86 138",
    " 9188067701",
    "9188067701 ",
    "9188\x0067701",
    "\u202e9188067701",
    "\U0001f4de",
    "91-88",
    "0x10",
    "1e5",
    None,
    9188067701,
    9188067701.0,
    True,
    b"9188067701",
    [],
]


@pytest.mark.parametrize("invalid", INVALID_PHONES)
@pytest.mark.parametrize("field", ["phone_a", "phone_b"])
def test_invalid_phone_is_an_error_of_its_field(field: str, invalid: object) -> None:
    assert set(errors_of_bind(**{field: invalid})) == {field}


def test_phone_b_has_at_least_four_digits_and_phone_a_at_least_one() -> None:
    assert set(errors_of_bind(phone_b="123")) == {"phone_b"}
    assert validation.bind_request(**(VALID | {"phone_a": "9", "phone_b": "9188"})).phone_a == "9"


def test_equal_phones_are_refused_even_if_one_has_a_plus() -> None:
    assert "differ" in errors_of_bind(phone_b="+" + VALID["phone_a"])["phone_b"]


def test_country_codes_are_compared_if_both_are_known() -> None:
    assert "country" in errors_of_bind(phone_b="8613800138000")["phone_b"]
    validation.bind_request(**(VALID | {"phone_a": "2100001", "phone_b": "9188067799"}))


@pytest.mark.parametrize(
    "notation", ["00919188067701", "+00919188067701", "09188067701", "0123", Phone("0091918")]
)
def test_phone_that_begins_with_0_is_refused_by_name_in_every_call(notation: str) -> None:
    message = "begins with 0: give it with its country code, without 00 or the national 0"
    assert errors_of_bind(phone_a=notation) == {"phone_a": message}
    assert errors_of_bind(phone_b=notation) == {"phone_b": message}
    calls: list[tuple[str, Callable[[], object]]] = [
        (
            "phone_a",
            lambda: validation.check_request(phone_a=notation, phone_b="9188067799", mode="AXB", app_id="a"),
        ),
        ("phone", lambda: validation.lookup(phone=notation)),
        ("party", lambda: validation.lookup(middle_number="918806", party=notation)),
        ("party", lambda: validation.trace(middle_number="918806", at=AT, party=notation, window_s=0)),
        ("phone", lambda: validation.filters(limit=50, cursor=None, phone=notation)),
    ]
    for field, call in calls:
        with pytest.raises(InvalidRequest) as refused:
            call()
        assert [(error.field, error.message) for error in refused.value.field_errors] == [(field, message)]


def test_middle_number_may_begin_with_0() -> None:
    assert validation.lookup(middle_number="0755123").middle_number == "0755123"
    assert validation.trace(middle_number="0755123", at=AT, party=None, window_s=0)[0] == "0755123"
    assert validation.filters(limit=50, cursor=None, middle_number="0755123")[0].middle_number == "0755123"


@pytest.mark.parametrize(
    "invalid",
    [0, -1, 259_201, 2**63, 1.5, 60.0, "60", "", None, True, math.nan, math.inf, [60]],
)
def test_expire_s_is_a_whole_number_from_1_to_259200(invalid: object) -> None:
    assert set(errors_of_bind(expire_s=invalid)) == {"expire_s"}


@pytest.mark.parametrize("good", [1, 259_200])
def test_smallest_and_largest_expire_s_are_valid(good: int) -> None:
    assert validation.bind_request(**(VALID | {"expire_s": good})).expire_s == good


@pytest.mark.parametrize("invalid", [1, 3, "3", "axb", "AXBB", "", None, True, b"AXB"])
def test_mode_is_axb_or_axxb(invalid: object) -> None:
    assert set(errors_of_bind(mode=invalid)) == {"mode"}


@pytest.mark.parametrize("invalid", ["", "1" * 21, "91 88", "\uff19", "\x00", None, 918806])
def test_pool_number_is_1_to_20_plain_characters(invalid: object) -> None:
    assert set(errors_of_bind(pool_number=invalid)) == {"pool_number"}


@pytest.mark.parametrize("invalid", ["", "x" * 256, 42, b"x", *CONTROLS])
@pytest.mark.parametrize("field", ["reference", "idempotency_key"])
def test_reference_and_key_are_one_line_without_control_characters(field: str, invalid: object) -> None:
    assert set(errors_of_bind(**{field: invalid})) == {field}


@pytest.mark.parametrize("text", TEXTS)
def test_spaces_joiners_and_emoji_are_text_in_every_field(text: str) -> None:
    assert validation.bind_request(**VALID, reference=text, idempotency_key=text).reference == text
    assert validation.bind_request(**(VALID | {"app_id": text})).app_id == text
    assert validation.reason(text) == text
    assert validation.caller(actor=text, request_id=text).actor == text
    assert validation.key(name=text, role="app", rate_limit=None, expires_at=None)["name"] == text
    assert validation.filters(limit=50, cursor=None, reference=text, actor=text, bind_id=text)[0].reference == text


@pytest.mark.parametrize("invalid", ["", "x" * 65, "\x00", 5])
def test_app_id_is_one_line_of_at_most_64_characters(invalid: object) -> None:
    assert set(errors_of_bind(app_id=invalid)) == {"app_id"}
    assert "BINDINGS_PROVIDER_APP_ID" in errors_of_bind(app_id=None)["app_id"]


def test_all_field_errors_are_reported_together_without_values() -> None:
    wrong = {
        "phone_a": "hunter2",
        "phone_b": "hunter3",
        "pool_number": "hunter4 ",
        "expire_s": "hunter5",
        "mode": "hunter6",
        "app_id": "hunter7" * 20,
        "reference": "hunter8" * 99,
        "idempotency_key": "hunter9\n",
    }
    with pytest.raises(InvalidRequest) as refused:
        validation.bind_request(**wrong)
    assert {error.field for error in refused.value.field_errors} == set(wrong)
    assert "hunter" not in str(refused.value) + str(refused.value.problem())


INVALID_TIMES = [
    NAIVE,
    "2026-03-01T12:00:00",
    "2026-03-01",
    "20260301",
    "noon",
    "",
    None,
    5,
    1.5,
    "2026-02-30T00:00:00Z",
    "2026-03-01T24:30:00Z",
    "9999-12-31T23:59:59-01:00",
    "0001-01-01T00:00:00+01:00",
    NAIVE.replace(tzinfo=UnknownOffset()),
    NAIVE.replace(tzinfo=tzinfo()),  # type: ignore[abstract] # it raises NotImplementedError
]


@pytest.mark.parametrize("invalid", INVALID_TIMES)
def test_time_that_is_naive_or_invalid_is_refused(invalid: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number="9188061024", at=invalid, party=None, window_s=300)
    assert [error.field for error in refused.value.field_errors] == ["at"]


@pytest.mark.parametrize(
    "given_time",
    [
        "2026-03-01T12:00:00Z",
        "2026-03-01T20:00:00+08:00",
        "2026-03-01 12:00:00.000000+00:00",
        datetime(2026, 3, 1, 12, tzinfo=UTC),
        datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=8))),
        "2026-03-01t12:00:00z",
        Moment(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=8))),
    ],
)
def test_every_notation_of_a_time_gives_the_same_utc_time(given_time: object) -> None:
    _, at, _, _ = validation.trace(middle_number="9188061024", at=given_time, party=None, window_s=300)
    assert (at, at.tzinfo, type(at)) == (datetime(2026, 3, 1, 12, tzinfo=UTC), UTC, datetime)


@pytest.mark.parametrize(("text", "has_advice"), [("2026-03-01T20:00:00 08:00", True), ("noon", False)])
def test_time_whose_plus_a_url_has_lost_is_refused_with_the_remedy(text: str, has_advice: bool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number="9188061024", at=text, party=None, window_s=300)
    assert ("%2B" in refused.value.field_errors[0].message) is has_advice


def _member(value: Any) -> Any:
    """Return a member of `class Member(str, Enum)`, or of one with another type, that has this value."""
    return Enum("Member", {"NAME": value}, type=type(value)).NAME  # type: ignore[attr-defined] # made at run time


def test_members_of_enums_are_taken_by_their_value_and_returned_as_plain_types() -> None:
    arguments = VALID | {"reference": "order-1", "idempotency_key": "1", "warn_s": 10, "max_expire_s": 90}
    plain = dataclasses.asdict(validation.bind_request(**arguments))
    of_members = dataclasses.asdict(
        validation.bind_request(**{name: _member(value) for name, value in arguments.items()})
    )
    assert of_members == plain
    assert [type(value) for value in of_members.values()] == [type(value) for value in plain.values()]


class Proxy:
    """Stands for a value as Django's `SimpleLazyObject` and werkzeug's `LocalProxy` do."""

    def __init__(self, target: Any) -> None:
        self.target = target

    @property  # type: ignore[misc] # `isinstance` asks for it
    def __class__(self) -> type:
        return type(self.target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def __str__(self) -> str:
        return str(self.target)

    def __len__(self) -> int:
        return len(self.target)


def test_text_behind_a_proxy_is_taken_as_plain_text() -> None:
    arguments = VALID | {"reference": "order-1", "idempotency_key": "1"}
    proxies: dict[str, Any] = {
        name: Proxy(value) if isinstance(value, str) else value for name, value in arguments.items()
    }
    request = validation.bind_request(**proxies)
    assert request == validation.bind_request(**arguments)
    assert type(request.reference) is str
    binding_id = "01a22cd6-c66f-7377-b34f-8f1602f1e65e"
    assert validation.binding_id(Proxy(binding_id)) == binding_id
    with pytest.raises(InvalidRequest) as refused:
        validation.lookup(middle_number=Proxy("x"))
    assert [error.field for error in refused.value.field_errors] == ["middle_number"]


CHECKS_OF_NAMES: list[tuple[Callable[[Any], Any], str]] = [
    (fields.state, "active"),
    (fields.order, "oldest"),
    (fields.access_kind, "reveal"),
    (fields.role, "auditor"),
    (fields.delivery_state, "dead"),
    (fields.uuid_text, "01a22cd6-c66f-7377-b34f-8f1602f1e65e"),
    (validation.binding_id, "01a22cd6-c66f-7377-b34f-8f1602f1e65e"),
    (fields.url, "https://example.org/hook"),
    (fields.middle_number, "9188061024"),
    (lambda kind: fields.event_kinds([kind])[0], "unbound"),
    (fields.instant, AT),
    (fields.feed_position, "5-7"),
]


@pytest.mark.parametrize(("check", "text"), CHECKS_OF_NAMES)
def test_member_of_an_enum_is_checked_as_its_text(check: Callable[[Any], Any], text: str) -> None:
    checked = check(_member(text))
    assert (checked, type(checked)) == (check(text), type(check(text)))


@pytest.mark.parametrize("invalid", [-1, 86_401, math.nan, math.inf, "300", None, True])
def test_window_is_0_to_86400_seconds(invalid: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number="1", at="2026-03-01T12:00:00Z", party=None, window_s=invalid)
    assert [error.field for error in refused.value.field_errors] == ["window_s"]


@pytest.mark.parametrize("invalid", ["", "x", "1" * 33, "\uff11", "1 2", "1\n", None, 918806])
def test_middle_number_is_1_to_32_digits(invalid: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number=invalid, at="2026-03-01T12:00:00Z", party=None, window_s=1)
    assert [error.field for error in refused.value.field_errors] == ["middle_number"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "phone"),
        ({"phone": "1", "middle_number": "2"}, "phone"),
        ({"phone": "1", "party": "2"}, "party"),
        ({"phone": "x"}, "phone"),
        ({"middle_number": "x"}, "middle_number"),
        ({"middle_number": "1", "party": "x"}, "party"),
        ({"reference": "order-1", "party": "1"}, "party"),
        ({"reference": "order-1", "phone": "1"}, "phone"),
        ({"reference": "order-1", "middle_number": "1"}, "phone"),
        ({"reference": ""}, "reference"),
    ],
)
def test_lookup_takes_a_phone_a_middle_number_or_a_reference(arguments: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.lookup(**arguments)
    assert [error.field for error in refused.value.field_errors] == [field]


@pytest.mark.parametrize("invalid", [0, -1, 201, 1.0, "50", True, None, 2**63])
def test_limit_is_1_to_200(invalid: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.filters(limit=invalid, cursor=None)
    assert [error.field for error in refused.value.field_errors] == ["limit"]
    with pytest.raises(InvalidRequest):
        validation.feed(after=None, limit=invalid)


def test_wrong_filters_of_a_search_are_reported_together() -> None:
    wrong = {
        "state": "dead",
        "mode": "x",
        "phone": "x",
        "middle_number": "x",
        "reference": "",
        "bind_id": "\x00",
        "pool_number": " ",
        "app_id": "",
        "requested_from": NAIVE,
        "requested_to": "yesterday",
    }
    with pytest.raises(InvalidRequest) as refused:
        validation.filters(limit=0, cursor="x", **wrong)
    assert {error.field for error in refused.value.field_errors} == {*wrong, "limit", "cursor"}


@pytest.mark.parametrize("end", ["2026-11-02T00:00:00Z", "2026-11-01T00:00:00Z"])
def test_period_that_contains_no_instant_is_refused_by_both_its_fields(end: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.filters(limit=1, cursor=None, requested_from="2026-11-02T00:00:00Z", requested_to=end)
    assert [error.field for error in refused.value.field_errors] == ["requested_from", "requested_to"]
    with pytest.raises(InvalidRequest) as refused:
        validation.period(since="2026-11-02T00:00:00Z", until=end)
    assert str(refused.value) == "from must be earlier than to; to must be later than from"


PAGING = {"cursor", "limit"}


def parameters_of(function: Callable[..., object]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def test_every_filter_is_in_the_validation_and_among_the_checked_filters() -> None:
    with pytest.raises(KeyError):
        validation.filters(limit=1, cursor=None, unknown=None)
    assert {field.name for field in dataclasses.fields(SearchFilters)} == set(validation.FILTER_CHECKS)
    assert set(HELP) == set(validation.FILTER_CHECKS) > BODY_ONLY


def test_every_filter_is_a_parameter_of_search() -> None:
    assert parameters_of(BindingService.search) - PAGING == set(validation.FILTER_CHECKS)


def test_every_filter_is_an_option_of_the_command_line() -> None:
    options = {parameter.name for parameter in list_.params}
    assert options - PAGING - {"as_json", "reveal", "reason"} == set(validation.FILTER_CHECKS)


def test_every_filter_is_in_the_body_of_a_search_and_only_harmless_ones_in_the_url() -> None:
    document = openapi.document()
    body = document["components"]["schemas"]["Search"]["properties"]
    assert set(body) - PAGING - {"reveal"} == set(validation.FILTER_CHECKS)
    query = {parameter["name"] for parameter in document["paths"]["/v1/bindings"]["get"]["parameters"]}
    assert query - PAGING == set(validation.FILTER_CHECKS) - BODY_ONLY
    assert query.isdisjoint({"phone", "middle_number"})


@pytest.mark.parametrize("name", validation.FILTER_CHECKS)
def test_every_filter_is_a_condition_of_the_store(name: str) -> None:
    filters: dict[str, Any] = {name: Phone("1") if name == "phone" else "1"}
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    assert len(queries.conditions(dialect, SearchFilters(**filters), literal_column("now"))) == 1


@given(
    at=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9990, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 -- hypothesis wants them naive
    name=st.uuids(),
)
def test_cursor_decodes_to_its_row(at: datetime, name: uuid.UUID) -> None:
    cursor = fields.position_after(at, str(name))
    _, _, position = validation.filters(limit=1, cursor=cursor)
    assert position == (at, str(name))


@given(cursor=st.text(max_size=80))
def test_cursor_of_any_text_raises_only_invalid_request(cursor: str) -> None:
    for check in (
        lambda: validation.filters(limit=1, cursor=cursor),
        lambda: validation.feed(after=cursor, limit=1),
    ):
        with suppress(InvalidRequest):  # the one error that it may be
            check()


@pytest.mark.parametrize(
    "invalid", ["1", "1-", "-1-1", "1-1-1", "a-b", "9223372036854775808-1", "1-" + "9" * 30, 7]
)
def test_malformed_feed_cursor_is_refused(invalid: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.feed(after=invalid, limit=1)
    assert [error.field for error in refused.value.field_errors] == ["after"]


@pytest.mark.parametrize("invalid", ["", "x", "1002", None, 5, "0190b5a0-0000-7000-8000-00000000000", "\x00"])
def test_id_that_is_not_a_uuid_is_not_found(invalid: object) -> None:
    with pytest.raises(NotFound):
        validation.binding_id(invalid)


def test_id_is_returned_in_canonical_form() -> None:
    name = uuid.uuid4()
    assert {validation.binding_id(form) for form in (name, str(name).upper(), name.hex, f"{{{name}}}")} == {
        str(name)
    }


@pytest.mark.parametrize("invalid", ["", None, "x" * 256, 5, *CONTROLS])
def test_reason_is_one_line_without_control_characters(invalid: object) -> None:
    with pytest.raises(InvalidRequest):
        validation.reason(invalid)


@pytest.mark.parametrize("field", ["from", "to"])
def test_start_and_end_of_an_export_have_a_zone(field: str) -> None:
    values = {"since": NAIVE if field == "from" else None, "until": NAIVE if field == "to" else None}
    with pytest.raises(InvalidRequest) as refused:
        validation.period(**values)
    assert [error.field for error in refused.value.field_errors] == [field]
