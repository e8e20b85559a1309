"""Texts of values: durations, and cells of CSV."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindings.domain.record_lines import LineEncoder
from bindings.domain.serialization import (
    duration,
    instant,
    instants_in_csv,
    instants_in_json,
    stored_instants,
    stored_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-90, "0 s"), (-0.2, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_duration_is_short_and_never_negative(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def in_postgres(at: datetime, separator: str, zone: str) -> str:
    """Return an instant as PostgreSQL writes it: no zeros at the end of a fraction."""
    text = at.replace(tzinfo=None).isoformat(separator)
    return (text.rstrip("0") if at.microsecond else text) + zone


STORED_FORMS: list[Callable[[datetime], str]] = [
    lambda at: at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    lambda at: at.astimezone(timezone(timedelta(hours=8))).isoformat(),
    lambda at: at.isoformat(" "),
]
INSTANTS = st.datetimes(timezones=st.just(UTC)) | st.integers(0, 2**33).map(
    lambda seconds: datetime.fromtimestamp(seconds / 10, UTC)
)


@given(st.lists(INSTANTS), st.data())
@settings(max_examples=100)
def test_stored_instants_are_those_of_the_single_texts(instants: list[datetime], data: st.DataObject) -> None:
    other = data.draw(
        st.lists(st.tuples(st.just(datetime(2026, 1, 1, tzinfo=UTC)), st.sampled_from(STORED_FORMS)))
    )
    regular = [(at, STORED_FORMS[0]) for at in instants]
    for pairs in (regular, [*regular, *other]):
        texts = [write(at) for at, write in pairs]
        assert stored_instants(texts) == [instant(at) for at, _ in pairs]


def test_stored_text_that_is_no_instant_is_an_error() -> None:
    with pytest.raises(ValueError, match="isoformat"):
        stored_instants(["2026-01-01T00:00:00.000000Z", "infinity"])


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.text(' ":,.[]{}-0123456789eE\\/\x7f\t\n\r', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
JSON_FORMS: tuple[Callable[[Any], str], ...] = (
    json.dumps,
    partial(json.dumps, ensure_ascii=False),
    partial(json.dumps, separators=(",", ":")),
    partial(json.dumps, indent=1),
)


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4)), st.sampled_from(JSON_FORMS))
@settings(max_examples=200)
def test_stored_json_is_that_of_the_single_values(
    values: list[dict[str, Any]], write: Callable[[Any], str]
) -> None:
    stored = list(map(write, values))
    assert stored_json(stored) == [json.dumps(json.loads(text)) for text in stored]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1.50}',
        '{"a": [-1.50]}',
        '{"a": [0, 1.50]}',
        '{"a": [1E2]}',
        '{"a":1}',
        '{"a": "\x7f"}',
        '{"a": "\u00e9"}',
    ],
)
def test_stored_json_that_is_written_otherwise_is_written_again(text: str) -> None:
    plain = '{"b": "1.50"}'
    assert stored_json([plain, text, "{}"]) == [plain, json.dumps(json.loads(text)), "{}"] != [plain, text, "{}"]


def test_stored_json_that_is_written_alike_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"at": "2026-11-30T11:11:22.240486+00:00", "count": 3, "ratio": "1.5", "ids": [1, -2], "none": None}
    stored = [json.dumps(values), "{}"]
    monkeypatch.setattr(json, "loads", None)
    assert stored_json(stored) == stored


@given(st.lists(st.tuples(INSTANTS, st.none() | INSTANTS), min_size=1))
@settings(max_examples=100)
def test_rows_of_instants_of_postgres_are_those_of_the_single_ones(
    rows: list[tuple[datetime, datetime | None]],
) -> None:
    in_csv, in_json = [], []
    for row in rows:
        in_csv.append(",".join("" if at is None else in_postgres(at, " ", "+00") for at in row))
        in_json.append(
            f"[{', '.join('null' if at is None else json.dumps(in_postgres(at, 'T', '+00:00')) for at in row)}]"
        )
    assert instants_in_csv(in_csv) == [",".join("" if at is None else instant(at) for at in row) for row in rows]
    assert instants_in_json(in_json) == [
        json.dumps(None if at is None else instant(at)) for row in rows for at in row
    ]


@pytest.mark.parametrize(
    ("column", "value", "cell"),
    [
        ("provider_status", "-41", "-41"),
        ("provider_status", "0", "0"),
        ("provider_status", "=1+1", "'=1+1"),
        ("id", "01990000-0000-7000-8000-000000000000", "01990000-0000-7000-8000-000000000000"),
        ("binding_id", "019a1e00-0000-7000-8000-000000000000", "019a1e00-0000-7000-8000-000000000000"),
        ("expires_at", "2026-11-28T19:32:51.153508Z", "2026-11-28T19:32:51.153508Z"),
        ("row_count", -3, "-3"),
        ("complete", True, "true"),
        ("reason", None, ""),
        ("reference", "+1-2", "'+1-2"),
        ("reference", "\uff1d1+1", "'\uff1d1+1"),
        ("reference", "1/2", "'1/2"),
        ("reference", "order-42", "order-42"),
        ("reference", "a;b", "a;b"),
        ("reference", "x;=cmd|' /C calc'!A0;y", "x;'=cmd|' /C calc'!A0;y"),
        ("reference", "x\t@SUM(A1)", "x\t'@SUM(A1)"),
        ("reference", 'x; "\uff0b1', "x;' \"\uff0b1"),
        ("reference", "=1;-2", "'=1;'-2"),
        ("detail", {"reason": "x;=1+1"}, '{"reason": "x;\'=1+1"}'),
    ],
)
def test_cell_is_no_formula_in_any_list_separator_and_codes_stay_as_they_are(
    column: str, value: object, cell: str
) -> None:
    lines = LineEncoder([column, "mode"], "csv").lines([{column: value, "mode": "AXB"}])
    assert list(csv.reader(io.StringIO(lines, newline=""))) == [[cell, "AXB"]]
