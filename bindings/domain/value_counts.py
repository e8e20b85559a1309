"""Counts of the values of a list's filters. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class ValueCount(NamedTuple):
    """How many rows have these values, by filter."""

    values: Mapping[str, str | None]
    number: int


def sum_up(name: str, counts: Iterable[ValueCount], chosen: Mapping[str, str | None]) -> dict[str, int]:
    """Return how many rows have each value of one filter, the most frequent first.

    Counted are those that match every other filter of `chosen`; None matches every value.
    """
    required = {other: value for other, value in chosen.items() if other != name and value is not None}
    sums: dict[str, int] = {}
    for values, number in counts:
        value = values[name]
        if value is not None and all(values[other] == expected for other, expected in required.items()):
            sums[value] = sums.get(value, 0) + number
    return dict(sorted(sums.items(), key=lambda entry: (-entry[1], entry[0])))
