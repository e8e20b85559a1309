from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.domain.binding import BindRequest, Mode
from bindings.domain.phone import Phone
from bindings.provider import strict_json, wire
from bindings.provider.outcome import ProviderBinding

CHINA = timezone(timedelta(hours=8))
DOCUMENTED_BODY = (
    b'{"phoneA":"9188067701","phoneB":"9188067799","poolNumber":"918806",'
    b'"expireS":60,"bizType":1,"appId":"4luaKsL2"}'
)
DOCUMENTED_REPLY = (
    b'{"status":"0","reason":"success","data":{"pnsNumberA":"9188061024","pnsNumberB":"9188061024","bindId":1002}}'
)
ROW: dict[str, Any] = {
    "bindId": "1002",
    "phoneA": "9188067701",
    "phoneB": "9188067799",
    "pnsNumberA": "9188061024",
    "pnsNumberB": "9188061024",
    "expireTime": "2023-10-22 09:00:00",
}


def bind_request(mode: Mode = Mode.AXB) -> BindRequest:
    return BindRequest(
        phone_a=Phone("9188067701"),
        phone_b=Phone("9188067799"),
        pool_number="918806",
        expire_s=60,
        mode=mode,
        app_id="4luaKsL2",
    )


def page(*rows: object, **fields: object) -> dict[str, Any]:
    return {"total": len(rows), "size": 10, "current": 1, "pages": 1, "records": list(rows)} | fields


def test_the_documented_bind_is_written_byte_for_byte() -> None:
    assert wire.bind_body(bind_request()) == DOCUMENTED_BODY


def test_the_other_mode_is_business_type_two() -> None:
    assert json.loads(wire.bind_body(bind_request(Mode.AXXB)))["bizType"] == 2


def test_non_ascii_text_is_sent_as_utf8() -> None:
    body = wire.unbind_body(wire.UnbindRequest(app_id="pension-ü", bind_id="1002"))
    assert body == '{"bindId":"1002","appId":"pension-ü"}'.encode()


def test_page_query_is_written_as_documented() -> None:
    body = wire.page_body(wire.PageRequest(app_id="4luaKsL2", current=1, size=100))
    assert body == b'{"current":1,"size":100,"params":{"appId":"4luaKsL2"}}'


@pytest.mark.parametrize("mode", list(Mode))
def test_bind_body_is_parsed_to_the_same_request(mode: Mode) -> None:
    assert wire.read_bind(wire.bind_body(bind_request(mode))) == bind_request(mode)


def test_unbind_and_page_bodies_are_parsed_to_the_same_request() -> None:
    unbind = wire.UnbindRequest(app_id="4luaKsL2", bind_id="1002")
    query = wire.PageRequest(app_id="4luaKsL2", current=2, size=50)
    assert wire.read_unbind(wire.unbind_body(unbind)) == unbind
    assert wire.read_page(wire.page_body(query)) == query


@pytest.mark.parametrize("field", ["phoneA", "phoneB", "poolNumber", "expireS", "bizType", "appId"])
@pytest.mark.parametrize("value", [None, True, 1.5, [], "", {}])
def test_a_bind_with_a_missing_or_mistyped_field_is_malformed(field: str, value: object) -> None:
    fields = json.loads(DOCUMENTED_BODY) | {field: value}
    with pytest.raises(wire.Malformed, match=field):
        wire.read_bind(json.dumps(fields).encode())


def test_a_bind_of_an_undocumented_business_type_is_malformed() -> None:
    with pytest.raises(wire.Malformed, match="bizType"):
        wire.read_bind(json.dumps(json.loads(DOCUMENTED_BODY) | {"bizType": 3}).encode())


def test_the_documented_reply_is_read_with_its_id_as_text() -> None:
    envelope = wire.read_envelope(DOCUMENTED_REPLY)
    assert (envelope.status, envelope.reason) == ("0", "success")
    assert wire.read_bound(envelope.data) == wire.Bound(
        bind_id="1002", middle_number_a="9188061024", middle_number_b="9188061024"
    )


def test_the_documented_reply_is_written_byte_for_byte() -> None:
    data = wire.bound_data(bind_id=1002, middle_number_a="9188061024", middle_number_b="9188061024")
    assert wire.reply(status="0", reason="success", data=data) == DOCUMENTED_REPLY


def test_a_status_that_is_a_number_is_read_as_text() -> None:
    assert wire.read_envelope(b'{"status":-35}') == wire.Envelope(status="-35", reason="", data=None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"0"',
        b"<html>busy</html>",
        b'{"status":"0"',
        b"{}",
        b'{"status":null}',
        b'{"status":true}',
        b'{"status":0.0}',
        b'{"status":""}',
        b'{"status":"0","status":"-35"}',
        b'{"status":"\\u0000"}',
        b'{"status":"\xff"}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"status":' + b"9" * 5_000 + b"}",
    ],
)
def test_body_that_is_not_an_envelope_is_malformed(body: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.read_envelope(body)


def test_words_of_an_envelope_are_redacted() -> None:
    envelope = wire.read_envelope(b'{"status":"key-3f7a","reason":"KEY-3F7A 9188067701"}', secrets=["key-3f7a"])
    assert (envelope.status, envelope.reason) == ("***", "*** 91******01")


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + '{"status":"-35","reason":"号码已绑定","data":null}'.encode(),
        '{"status":"-35","reason":"号码已绑定","data":null}'.encode("gbk"),
        '{"status":"-35","reason":"déjà lié","data":null}'.encode("latin-1"),
        b'{"status":"-35","reason":"\\ud800","data":null}',
        b'{"status":"-35","data":{"x":1,"x":2}}',
        b'{"status":"-35","data":NaN}',
        b'{"status":"-35","data":' + b"9" * 5_000 + b"}",
    ],
)
def test_clear_status_stays_clear_whatever_the_rest_of_the_body_is(body: bytes) -> None:
    assert wire.read_envelope(body).status == "-35"


@pytest.mark.parametrize("data", [b'{"bindId":1,"bindId":2}', b"NaN", b"Infinity", b"9" * 5_000])
def test_success_whose_data_parsers_read_differently_is_malformed(data: bytes) -> None:
    with pytest.raises(wire.Malformed, match="data"):
        wire.read_bound(wire.read_envelope(b'{"status":"0","data":' + data + b"}").data)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (b'{"bindId":2,"bindId":3}', "the row has a field that occurs twice"),
        (b'{"bindId":2,"remark":1,"remark":2}', "the row has a field that occurs twice"),
        (b'{"bindId":NaN}', "bindId is missing"),
        (b'{"bindId":' + b"9" * 5_000 + b"}", "bindId is missing"),
        (b'{"bindId":"\xff"}', "bindId is not a short printable text"),
    ],
)
def test_row_that_parsers_read_differently_is_odd_and_the_others_are_read(odd: bytes, problem: str) -> None:
    whole = strict_json.dump(ROW | {"bindId": 1, "remark": "\N{SNOWMAN}"})
    body = b'{"status":"0","data":{"total":2,"records":[' + whole + b"," + odd + b"]}}"
    page = wire.read_rows(wire.read_envelope(body).data, zone=CHINA)
    assert [row.bind_id for row in page.rows] == ["1"]
    assert [row.problem.startswith(problem) for row in page.odd_rows] == [True]


@pytest.mark.parametrize(
    "text",
    ["+9188067701", "009188067701", "+91 88067701", "91-8806 7701", "+91-8806-7701", 9188067701, 9188067701.0],
)
def test_phone_of_a_row_is_read_in_every_notation_of_its_digits_with_a_country_code(text: object) -> None:
    (row,) = wire.read_rows(page(ROW | {"phoneA": text}), zone=CHINA).rows
    assert row.phone_a == Phone("9188067701")


@pytest.mark.parametrize(
    "text", ["0571-88060007", "00 9188067701", "91--88067701", "91 88067701-", "9188****01", 1.5]
)
def test_row_with_a_phone_that_may_be_another_one_is_odd(text: object) -> None:
    (odd,) = wire.read_rows(page(ROW | {"phoneA": text}), zone=CHINA).odd_rows
    assert odd.problem.startswith("phoneA")


@pytest.mark.parametrize("field", ["bindId", "pnsNumberA", "pnsNumberB"])
@pytest.mark.parametrize("value", [None, True, 1.5, "", " ", "x" * 129, "a\0b", "\ud800", []])
def test_success_without_one_of_its_three_fields_is_malformed(field: str, value: object) -> None:
    data = {"bindId": 1, "pnsNumberA": "2", "pnsNumberB": "2"} | {field: value}
    with pytest.raises(wire.Malformed, match=field):
        wire.read_bound(data)


NO_BIND_IDS = [0, -5, 1.5, 0.0, 2.0**53, float("inf"), "0", "000", "-5", " -5 ", "-", "1\t", "1\n", "x" * 65]


@pytest.mark.parametrize("value", NO_BIND_IDS)
def test_value_that_cannot_be_a_bind_id_is_no_success_and_makes_a_row_odd(value: object) -> None:
    with pytest.raises(wire.Malformed, match="bindId"):
        wire.read_bound({"bindId": value, "pnsNumberA": "2", "pnsNumberB": "2"})
    (odd,) = wire.read_rows(page(ROW | {"bindId": value}), zone=CHINA).odd_rows
    assert odd.bind_id is None
    assert odd.problem.startswith("bindId")


@pytest.mark.parametrize("value", [1015, "1015", " 1015 ", 1015.0])
def test_bind_id_is_read_without_the_spaces_around_it(value: object) -> None:
    assert wire.read_bound({"bindId": value, "pnsNumberA": "2", "pnsNumberB": "2"}).bind_id == "1015"
    (row,) = wire.read_rows(page(ROW | {"bindId": value}), zone=CHINA).rows
    assert row.bind_id == "1015"


@pytest.mark.parametrize("value", ["9188061024", "+9188061024", 9188061024, 9188061024.0])
def test_middle_number_is_read_as_its_digits(value: object) -> None:
    assert wire.read_bound({"bindId": 1, "pnsNumberA": value, "pnsNumberB": "2"}).middle_number_a == "9188061024"


def test_a_page_is_read_with_its_ends_in_utc() -> None:
    (row,) = wire.read_rows(page(ROW | {"bindId": 1002}), zone=CHINA).rows
    assert row == ProviderBinding(
        bind_id="1002",
        phone_a=Phone("9188067701"),
        phone_b=Phone("9188067799"),
        middle_number_a="9188061024",
        middle_number_b="9188061024",
        ends_at=datetime(2023, 10, 22, 1, tzinfo=UTC),
    )


def test_an_empty_page_is_a_page() -> None:
    assert wire.read_rows(page(total="0"), zone=CHINA).rows == ()


@pytest.mark.parametrize("field", list(ROW))
@pytest.mark.parametrize("value", [None, True, "", "x\0", {}])
def test_row_that_does_not_parse_is_odd_and_the_others_are_read(field: str, value: object) -> None:
    read = wire.read_rows(page(ROW, ROW | {field: value}), zone=CHINA)
    assert [row.bind_id for row in read.rows] == ["1002"]
    (odd,) = read.odd_rows
    assert odd.problem.startswith(field)
    assert odd.bind_id == (None if field == "bindId" else "1002")
    assert len(odd.phones) == (1 if field in ("phoneA", "phoneB") else 2)
    assert (odd.ends_at is None) == (field == "expireTime")


@pytest.mark.parametrize("record", [None, 7, "row", []])
def test_row_that_is_no_object_is_odd(record: object) -> None:
    read = wire.read_rows(page(record, ROW), zone=CHINA)
    assert len(read.rows) == 1
    assert [(odd.bind_id, odd.phones, odd.ends_at) for odd in read.odd_rows] == [(None, (), None)]


@pytest.mark.parametrize(
    "end", [1_698_000_000, 1_698_000_000.0, "1698000000", 1_698_000_000_000, 1_698_000_000_000.0]
)
def test_end_in_unix_time_is_read(end: object) -> None:
    (row,) = wire.read_rows(page(ROW | {"expireTime": end}), zone=CHINA).rows
    assert row.ends_at == datetime(2023, 10, 22, 18, 40, tzinfo=UTC)


@pytest.mark.parametrize("total", [None, -1, "many", 1.5, {}])
def test_total_that_is_no_count_loses_no_row(total: object) -> None:
    read = wire.read_rows(page(ROW, total=total), zone=CHINA)
    assert (read.total, len(read.rows)) == (None, 1)


def test_values_are_read_without_the_spaces_that_pad_a_column_of_fixed_length() -> None:
    padded = {field: f" {value}  " for field, value in ROW.items()}
    assert wire.read_rows(page(padded), zone=CHINA) == wire.read_rows(page(ROW), zone=CHINA)
    assert wire.read_rows(page(ROW, total="1 "), zone=CHINA).total == 1
    assert wire.read_bound(padded) == wire.read_bound(ROW)
    assert wire.read_envelope(b'{"status":"-35 "}').status == "-35"


@pytest.mark.parametrize("data", [None, [], {"total": 1}, page(ROW, records=None), page(records={})])
def test_data_that_is_not_a_page_is_malformed(data: object) -> None:
    with pytest.raises(wire.Malformed):
        wire.read_rows(data, zone=CHINA)


@pytest.mark.parametrize("data", [None, [], {"total": 101}, {"total": 101, "records": None}])
def test_page_past_the_end_is_empty_also_without_a_list_of_rows(data: object) -> None:
    assert wire.read_rows(data, zone=CHINA, current=2).rows == ()


@pytest.mark.parametrize("data", [{"total": 0}, {"records": None}, {"records": []}])
def test_account_without_pools_has_an_empty_list(data: object) -> None:
    assert wire.read_pool_list(data).pools == ()


@pytest.mark.parametrize("data", [None, [], {"records": {"poolNumber": "918806"}}, {"records": [7]}])
def test_data_that_is_not_a_list_of_pools_is_malformed(data: object) -> None:
    with pytest.raises(wire.Malformed):
        wire.read_pool_list(data)


@pytest.mark.parametrize("data", [{"total": 0}, {"total": "0", "records": None}])
def test_list_of_no_rows_is_empty_also_without_a_list_of_rows(data: object) -> None:
    assert wire.read_rows(data, zone=CHINA).rows == ()


def test_error_texts_repeat_no_value() -> None:
    (odd,) = wire.read_rows(page(ROW | {"phoneA": "9188067701x"}), zone=CHINA).odd_rows
    assert "9188067701" not in odd.problem
    assert "9188067799" not in repr(odd)
    with pytest.raises(wire.Malformed) as raised:
        wire.read_bound({"bindId": "9188067701" * 7})
    assert "9188067701" not in str(raised.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_malformed(body: bytes) -> None:
    with contextlib.suppress(wire.Malformed):
        assert wire.read_envelope(body).status


@given(
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001 -- drawn naive
    st.integers(min_value=-12, max_value=14),
)
def test_written_page_is_parsed_to_the_same_rows_in_whole_seconds(drawn: datetime, hours: int) -> None:
    zone, instant = timezone(timedelta(hours=hours)), drawn.replace(tzinfo=UTC)
    row = ProviderBinding(
        bind_id="1",
        phone_a=Phone("12"),
        phone_b=Phone("1234"),
        middle_number_a="5",
        middle_number_b="6",
        ends_at=instant,
    )
    data = wire.page_data([wire.listed_row(row, zone=zone)], total=1, current=1, size=10)
    read = wire.read_rows(data, zone=zone)
    assert read.total == 1
    assert [row.ends_at for row in read.rows] == [instant.replace(microsecond=0)]
