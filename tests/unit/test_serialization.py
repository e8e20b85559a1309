"""Texts of values: durations, and cells of CSV."""

from __future__ import annotations

import csv
import io

import pytest

from bindings.domain.record_lines import LineEncoder
from bindings.domain.serialization import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-90, "0 s"), (-0.2, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_duration_is_short_and_never_negative(seconds: float, text: str) -> None:
    assert duration(seconds) == text


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
    lines = LineEncoder([column], "csv").lines([{column: value}])
    assert next(csv.reader(io.StringIO(lines, newline="")), [""])[0:1] == ([cell] if cell else [""])
