"""Texts of values: durations."""

from __future__ import annotations

import pytest

from bindings.domain.serialization import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-90, "0 s"), (-0.2, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_duration_is_short_and_never_negative(seconds: float, text: str) -> None:
    assert duration(seconds) == text
