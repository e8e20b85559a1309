"""Lines of CSV and NDJSON: a column at a time gives what each value gives by itself."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindings.domain.binding import Mode, State
from bindings.domain.phone import ERASED_MARK, Phone, PhoneColumn
from bindings.domain.record_lines import FORMATS, JsonColumn, LineEncoder, RecordColumns, _csv_cell
from bindings.domain.serialization import to_plain

TEXTS = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="=+-@;\t\n\r \"'0123456789.,:/eE\uff1d\u8ba2", max_size=8),
    st.sampled_from(
        ["", "order-42", "01990000-0000-7000-8000-000000000000", "8613800000001", "-41", "'", "\ufeff"]
    ),
)
INSTANTS = st.integers(0, 2**42).map(lambda number: datetime.fromtimestamp(number / 1_000, UTC))
ERASED_PHONES = st.just(Phone.stored(ERASED_MARK + "22"))
PHONES = st.text("0123456789", min_size=1, max_size=20).map(Phone)
COLUMNS = st.sampled_from(
    [
        TEXTS,
        st.text("0123456789", max_size=8),
        st.text("0123456789-", max_size=8),
        INSTANTS,
        st.one_of(INSTANTS, INSTANTS.map(lambda at: at.astimezone(timezone(timedelta(hours=8))))),
        st.integers(),
        st.one_of(PHONES, ERASED_PHONES),
        st.sampled_from([*Mode, *State]),
        st.booleans(),
        st.dictionaries(TEXTS, TEXTS, max_size=2),
        st.one_of(TEXTS, st.integers(), st.booleans()),
        st.just(None),
    ]
)
NAMES = ["id", "reference", "detail", "provider_status"]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bool]]:
    """Return records whose columns have values of one kind each, with gaps, and which of them are in full."""
    count = draw(st.integers(1, 6))
    columns = {name: draw(st.lists(draw(COLUMNS) | st.none(), min_size=count, max_size=count)) for name in NAMES}
    records = [{name: columns[name][row] for name in NAMES} for row in range(count)]
    return records, draw(st.lists(st.booleans(), min_size=count, max_size=count))


@given(tables())
@settings(max_examples=50)
def test_ndjson_lines_are_the_json_of_the_plain_records(table: tuple[list[dict[str, Any]], list[bool]]) -> None:
    records, revealed = table
    lines = LineEncoder(NAMES, "ndjson").lines(records, revealed=revealed)
    plain = [to_plain(record, revealed=full) for record, full in zip(records, revealed, strict=True)]
    assert lines == "".join(json.dumps(record) + "\n" for record in plain)


@given(tables())
@settings(max_examples=50)
def test_csv_cells_are_those_of_the_single_values(table: tuple[list[dict[str, Any]], list[bool]]) -> None:
    records, revealed = table
    lines = LineEncoder(NAMES, "csv").lines(records, revealed=revealed)
    plain = [to_plain(record, revealed=full) for record, full in zip(records, revealed, strict=True)]
    assert lines == "".join(csv_line([_csv_cell(name, record[name]) for name in NAMES]) for record in plain)


def csv_line(cells: list[str]) -> str:
    """Return a line of CSV as a writer with CR and LF between lines writes it: with each of them in quotes."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


@pytest.mark.parametrize("sign", [",", '"', "\n", "\r", "\r\n"])
def test_cell_with_what_ends_cells_or_lines_is_in_quotes(sign: str) -> None:
    """Some readers take a bare CR for the end of a line; what follows would be a cell of its own."""
    (line,) = csv.reader(
        io.StringIO(LineEncoder(NAMES, "csv").lines([dict.fromkeys(NAMES, f"a{sign}=1")]), newline="")
    )
    assert line == [f"a{sign}=1"] * len(NAMES)
    assert (
        "\r" not in LineEncoder(["id", "name"], "csv").lines([{"id": "1", "name": f"a{sign}=1"}]).split('"')[0::2]
    )


@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.floats(allow_nan=False), max_size=3), min_size=1))
@settings(max_examples=50)
def test_column_of_json_texts_has_the_lines_of_its_objects(objects: list[dict[str, Any]]) -> None:
    by_name = {"detail": JsonColumn(list(map(json.dumps, objects))), "version": range(len(objects))}
    records = [{"detail": value, "version": version} for version, value in enumerate(objects)]
    for file_format in FORMATS:
        encoder = LineEncoder(["detail", "version"], file_format)
        assert encoder.lines(RecordColumns(by_name, len(objects))) == encoder.lines(records)


@given(st.lists(st.one_of(PHONES, ERASED_PHONES), min_size=1), st.data(), st.sampled_from(FORMATS))
@settings(max_examples=50)
def test_columns_of_phones_have_the_lines_of_their_phones(
    phones: list[Phone], data: st.DataObject, file_format: str
) -> None:
    revealed = data.draw(st.lists(st.booleans(), min_size=len(phones), max_size=len(phones)))
    encoder = LineEncoder(["phone_a", "version"], file_format)
    by_name = {"phone_a": PhoneColumn([phone.key for phone in phones]), "version": range(len(phones))}
    records = [{"phone_a": phone, "version": version} for version, phone in enumerate(phones)]
    lines = encoder.lines(RecordColumns(by_name, len(phones)), revealed=revealed)
    assert lines == encoder.lines(records, revealed=revealed)
    assert not any(phone.key in repr(by_name) for phone in phones if len(phone.key) > 4)


@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_no_records_are_no_lines(file_format: str) -> None:
    assert LineEncoder(NAMES, file_format).lines([]) == ""
