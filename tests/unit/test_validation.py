"""Arguments: every odd value is a named fault before any I/O, all of them at once, and no value is echoed."""

from __future__ import annotations

import math
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.domain.binding import Mode
from bindings.errors import InvalidRequest, NotFound
from bindings.validation import fields as values
from bindings.validation import requests as validation

GOOD: dict[str, Any] = {
    "phone_a": "9188067701",
    "phone_b": "9188067799",
    "pool_number": "918806",
    "expire_s": 60,
    "mode": "AXB",
    "app_id": "4luaKsL2",
}
NAIVE = datetime(2026, 3, 1, 12)  # noqa: DTZ001 -- naive on purpose


def faults(**changed: Any) -> dict[str, str]:
    """Field → message of a bind with these values."""
    with pytest.raises(InvalidRequest) as refused:
        validation.bind_request(**(GOOD | changed))
    return {fault.field: fault.message for fault in refused.value.field_errors}


def test_the_documented_example_passes() -> None:
    request = validation.bind_request(**GOOD)
    assert (request.phone_a.digits, request.phone_b.digits, request.mode) == ("9188067701", "9188067799", Mode.AXB)


def test_phones_are_normalised_alike_however_they_are_written() -> None:
    plus = validation.bind_request(**(GOOD | {"phone_a": "+9188067701", "phone_b": "+9188067799"}))
    assert plus == validation.bind_request(**GOOD)


ODD_PHONES: list[object] = [
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


@pytest.mark.parametrize("odd", ODD_PHONES)
@pytest.mark.parametrize("field", ["phone_a", "phone_b"])
def test_an_odd_phone_is_a_fault_of_its_field(field: str, odd: object) -> None:
    assert set(faults(**{field: odd})) == {field}


def test_phone_b_has_at_least_four_digits_and_phone_a_at_least_one() -> None:
    assert set(faults(phone_b="123")) == {"phone_b"}
    assert validation.bind_request(**(GOOD | {"phone_a": "9", "phone_b": "9188"})).phone_a == "9"


def test_equal_phones_are_refused_also_where_one_has_a_plus() -> None:
    assert "differ" in faults(phone_b="+" + GOOD["phone_a"])["phone_b"]


def test_country_codes_are_compared_where_both_parse() -> None:
    assert "country" in faults(phone_b="8613800138000")["phone_b"]
    validation.bind_request(**(GOOD | {"phone_a": "0012345", "phone_b": "0099999"}))


def test_leading_zeros_are_kept() -> None:
    request = validation.bind_request(**(GOOD | {"phone_a": "0012345", "phone_b": "0099999"}))
    assert (request.phone_a.digits, request.phone_b.digits) == ("0012345", "0099999")


@pytest.mark.parametrize(
    "odd",
    [0, -1, 259_201, 2**63, 1.5, 60.0, "60", "", None, True, math.nan, math.inf, [60]],
)
def test_expire_s_is_a_whole_number_from_1_to_259200(odd: object) -> None:
    assert set(faults(expire_s=odd)) == {"expire_s"}


@pytest.mark.parametrize("good", [1, 259_200])
def test_both_ends_of_expire_s_pass(good: int) -> None:
    assert validation.bind_request(**(GOOD | {"expire_s": good})).expire_s == good


@pytest.mark.parametrize("odd", [1, 3, "3", "axb", "AXBB", "", None, True, b"AXB"])
def test_the_mode_is_one_of_two_words(odd: object) -> None:
    assert set(faults(mode=odd)) == {"mode"}


@pytest.mark.parametrize("odd", ["", "1" * 21, "91 88", "\uff19", "\x00", None, 918806])
def test_a_pool_number_is_1_to_20_plain_signs(odd: object) -> None:
    assert set(faults(pool_number=odd)) == {"pool_number"}


@pytest.mark.parametrize("odd", ["", "x" * 256, "a\x00b", "a\nb", "\u202eb", "\ud800", 42, b"x"])
@pytest.mark.parametrize("field", ["reference", "idempotency_key"])
def test_a_reference_and_a_key_are_one_printable_line(field: str, odd: object) -> None:
    assert set(faults(**{field: odd})) == {field}


@pytest.mark.parametrize("odd", ["", "x" * 65, "\x00", 5])
def test_an_app_id_is_one_short_line(odd: object) -> None:
    assert set(faults(app_id=odd)) == {"app_id"}
    assert "BINDINGS_PROVIDER_APP_ID" in faults(app_id=None)["app_id"]


def test_every_fault_is_found_at_once_and_no_value_is_echoed() -> None:
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
    assert {fault.field for fault in refused.value.field_errors} == set(wrong)
    assert "hunter" not in str(refused.value) + str(refused.value.problem())


ODD_TIMES = [
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
]


@pytest.mark.parametrize("odd", ODD_TIMES)
def test_a_time_without_zone_or_sense_is_refused(odd: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number="9188061024", at=odd, party=None, window_s=300)
    assert [fault.field for fault in refused.value.field_errors] == ["at"]


@pytest.mark.parametrize(
    "given_time",
    [
        "2026-03-01T12:00:00Z",
        "2026-03-01T20:00:00+08:00",
        "2026-03-01 12:00:00.000000+00:00",
        datetime(2026, 3, 1, 12, tzinfo=UTC),
        datetime(2026, 3, 1, 20, tzinfo=timezone(timedelta(hours=8))),
    ],
)
def test_every_writing_of_an_instant_is_the_same_instant(given_time: object) -> None:
    _, at, _, _ = validation.trace(middle_number="9188061024", at=given_time, party=None, window_s=300)
    assert (at, at.tzinfo) == (datetime(2026, 3, 1, 12, tzinfo=UTC), UTC)


@pytest.mark.parametrize("odd", [-1, 86_401, math.nan, math.inf, "300", None, True])
def test_a_window_is_0_to_86400_seconds(odd: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number="1", at="2026-03-01T12:00:00Z", party=None, window_s=odd)
    assert [fault.field for fault in refused.value.field_errors] == ["window_s"]


@pytest.mark.parametrize("odd", ["", "x", "1" * 33, "\uff11", "1 2", "1\n", None, 918806])
def test_a_middle_number_is_digits(odd: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.trace(middle_number=odd, at="2026-03-01T12:00:00Z", party=None, window_s=1)
    assert [fault.field for fault in refused.value.field_errors] == ["middle_number"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "phone"),
        ({"phone": "1", "middle_number": "2"}, "phone"),
        ({"phone": "1", "party": "2"}, "party"),
        ({"phone": "x"}, "phone"),
        ({"middle_number": "x"}, "middle_number"),
        ({"middle_number": "1", "party": "x"}, "party"),
    ],
)
def test_a_lookup_takes_a_phone_or_a_middle_number(asked: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.lookup(**({"phone": None, "middle_number": None, "party": None} | asked))
    assert [fault.field for fault in refused.value.field_errors] == [field]


@pytest.mark.parametrize("odd", [0, -1, 201, 1.0, "50", True, None, 2**63])
def test_a_limit_is_1_to_200(odd: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.filters(limit=odd, cursor=None)
    assert [fault.field for fault in refused.value.field_errors] == ["limit"]
    with pytest.raises(InvalidRequest):
        validation.feed(after=None, limit=odd)


def test_every_filter_of_a_search_is_checked_at_once() -> None:
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
    assert {fault.field for fault in refused.value.field_errors} == {*wrong, "limit", "cursor"}


@given(
    at=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9990, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 -- hypothesis wants them naive
    name=st.uuids(),
)
def test_a_cursor_leads_back_to_its_row(at: datetime, name: uuid.UUID) -> None:
    cursor = values.position_after(at, str(name))
    _, _, position = validation.filters(limit=1, cursor=cursor)
    assert position == (at, str(name))


@given(cursor=st.text(max_size=80))
def test_no_text_makes_a_cursor_crash(cursor: str) -> None:
    for check in (
        lambda: validation.filters(limit=1, cursor=cursor),
        lambda: validation.feed(after=cursor, limit=1),
    ):
        with suppress(InvalidRequest):  # the one error that it may be
            check()


@pytest.mark.parametrize("odd", ["1", "1-", "-1-1", "1-1-1", "a-b", "9223372036854775808-1", "1-" + "9" * 30, 7])
def test_a_feed_cursor_is_one_that_was_given_out(odd: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validation.feed(after=odd, limit=1)
    assert [fault.field for fault in refused.value.field_errors] == ["after"]


@pytest.mark.parametrize("odd", ["", "x", "1002", None, 5, "0190b5a0-0000-7000-8000-00000000000", "\x00"])
def test_an_id_that_is_no_uuid_cannot_be_found(odd: object) -> None:
    with pytest.raises(NotFound):
        validation.binding_id(odd)


def test_an_id_is_brought_to_its_canonical_form() -> None:
    name = uuid.uuid4()
    assert {validation.binding_id(form) for form in (name, str(name).upper(), name.hex, f"{{{name}}}")} == {
        str(name)
    }


@pytest.mark.parametrize("odd", ["", None, "x" * 256, "a\tb", 5])
def test_a_reason_is_one_line(odd: object) -> None:
    with pytest.raises(InvalidRequest):
        validation.reason(odd)


@pytest.mark.parametrize("field", ["from", "to"])
def test_the_ends_of_an_export_have_a_zone(field: str) -> None:
    values = {"since": NAIVE if field == "from" else None, "until": NAIVE if field == "to" else None}
    with pytest.raises(InvalidRequest) as refused:
        validation.period(**values)
    assert [fault.field for fault in refused.value.field_errors] == [field]
