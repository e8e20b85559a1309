"""The values of a list's filters, with the addresses they lead to, and the rule that no address has a phone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VALUES_SHOWN = 8  # of one filter, with their counts
# Seven digits or more, with separators, that do not continue a word; or ten digits in a row.
PHONE_LIKE = re.compile(r"(?<![\w-])[0-9](?:[ ().-]*[0-9]){6}|[0-9]{10}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterValue:
    """A value of a filter, how many rows have it (None: not counted), and where choosing it leads.

    `address` is that of the view with the value, or without it if it is chosen; None if no address may have it.
    """

    text: str
    count: int | None
    is_chosen: bool
    address: str | None


def may_be_phone(text: str) -> bool:
    """Return whether a text may contain a phone or a middle number: addresses are recorded in logs."""
    return PHONE_LIKE.search(text) is not None


def filter_values(
    counts: Mapping[str, int | None],
    chosen: str | None,
    *,
    text: Callable[[str], str],
    address: Callable[[str | None], str | None],
) -> list[FilterValue]:
    """Return the first values of a filter, and the chosen one; `address` returns that of the view with a value."""
    values = list(counts)[:VALUES_SHOWN]
    if chosen and chosen not in values:
        values.append(chosen)
    return [
        FilterValue(
            text=text(value),
            count=counts.get(value, 0),
            is_chosen=value == chosen,
            address=address(None if value == chosen else value),
        )
        for value in values
    ]
