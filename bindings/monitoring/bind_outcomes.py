"""What became of binds, by application and by pool. Pure functions over the counts of `bind_counts`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.domain.binding import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bindings.store.statistics import BindCount


@dataclass(frozen=True, kw_only=True, slots=True)
class BindFilter:
    """Whose binds are counted: those of an application or of a pool; None is any."""

    app_id: str | None = None
    pool_number: str | None = None

    def matches(self, count: BindCount) -> bool:
        """Return whether a count is about these binds."""
        return self.app_id in (None, count.app_id) and self.pool_number in (None, count.pool_number)


ALL_BINDS = BindFilter()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """How many binds of one application or pool were requested, and what became of them.

    `requested` are those with an intent, `refused` those that were refused here before the call. A bind counts as
    failed or in doubt when it became so.
    """

    name: str
    requested: int
    failed: int
    in_doubt: int
    refused: int

    @property
    def binds(self) -> int:
        """Return all binds."""
        return self.requested + self.refused


def outcomes_by_app(counts: Iterable[BindCount], bind_filter: BindFilter) -> list[Outcomes]:
    """Return the outcomes of each application, the one with the most binds first."""
    return _outcomes([(count.app_id, count) for count in counts if bind_filter.matches(count)])


def outcomes_by_pool(counts: Iterable[BindCount], bind_filter: BindFilter) -> list[Outcomes]:
    """Return the outcomes of each pool, the one with the most binds first."""
    return _outcomes([(count.pool_number, count) for count in counts if bind_filter.matches(count)])


def _outcomes(named_counts: list[tuple[str, BindCount]]) -> list[Outcomes]:
    numbers: Counter[tuple[str, str]] = Counter()
    for name, count in named_counts:
        numbers[name, count.kind] += count.number
    outcomes = [
        Outcomes(
            name=name,
            requested=numbers[name, EventKind.REQUESTED],
            failed=numbers[name, EventKind.FAILED],
            in_doubt=numbers[name, EventKind.IN_DOUBT],
            refused=numbers[name, EventKind.REFUSED],
        )
        for name in {name for name, _ in named_counts}
    ]
    return sorted(outcomes, key=lambda entry: (-entry.binds, entry.name))
