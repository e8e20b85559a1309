"""Pages of results: what is cut off, and the cursor of the next page."""

from __future__ import annotations

import pytest

from bindings.domain.binding import Page


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], Page(data=(), next_cursor=None)),
        ([1, 2], Page(data=(1, 2), next_cursor=None)),
        ([1, 2, 3], Page(data=(1, 2), next_cursor="after 2")),
    ],
)
def test_page_has_a_cursor_only_if_there_are_more_rows(rows: list[int], expected: Page[int]) -> None:
    assert Page.of(rows, 2, lambda item: f"after {item}") == expected
