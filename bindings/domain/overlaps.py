"""Anomalies among the bindings of a number: overlaps, and quick reuse of a middle number. Pure.

Two bindings overlap if they may have existed at the same time and share a phone; the conflict policy allows some
of these pairs. A middle number is reused quickly if another pair got it shortly after the end of a binding: the
former pair may still call it, and reach the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from typing import TYPE_CHECKING

from bindings.domain.binding import State
from bindings.domain.conflict import conflict_rule
from bindings.domain.trace import earliest_end, earliest_start

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.domain.conflict import ConflictRule, Policy
    from bindings.domain.phone import Phone

QUICK_REUSE = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Two bindings that may have existed at the same time, with a phone in common.

    `rule` is the one of the conflict policy that forbids the second bind beside the first; None: it is allowed.
    """

    first: Binding
    second: Binding
    rule: ConflictRule | None

    @property
    def allowed(self) -> bool:
        """Return whether the conflict policy permits the second bind beside the first."""
        return self.rule is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reuse:
    """A middle number of `first` that `second`, with other phones, got `gap_s` seconds after its end."""

    first: Binding
    second: Binding
    middle_number: str
    gap_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lifetime:
    """A binding with what each comparison with another one needs."""

    binding: Binding
    start: datetime
    end: datetime
    phones: frozenset[Phone]


def find_anomalies(bindings: Iterable[Binding], policy: Policy) -> list[Overlap | Reuse]:
    """Return the anomalies among these bindings, in the order of their starts."""
    lifetimes = [
        _Lifetime(
            binding=binding,
            start=earliest_start(binding),
            end=earliest_end(binding),
            phones=frozenset((binding.phone_a, binding.phone_b)),
        )
        for binding in bindings
        if binding.state is not State.FAILED
    ]
    lifetimes.sort(key=lambda lifetime: (lifetime.start, lifetime.binding.id))
    anomalies = [_anomaly(first, second, policy) for first, second in combinations(lifetimes, 2)]
    return [anomaly for anomaly in anomalies if anomaly is not None]


def _anomaly(earlier: _Lifetime, later: _Lifetime, policy: Policy) -> Overlap | Reuse | None:
    first, second, shared = earlier.binding, later.binding, earlier.phones & later.phones
    if shared and later.start < first.held_until and (first.ended_at is None or later.start < first.ended_at):
        return Overlap(first=first, second=second, rule=_forbidding_rule(first, second, policy))
    gap = later.start - earlier.end
    if len(shared) == 2 or not timedelta() <= gap <= QUICK_REUSE:  # noqa: PLR2004 -- the same pair
        return None
    numbers = {first.middle_number_a, first.middle_number_b} & {second.middle_number_a, second.middle_number_b}
    reused = min((number for number in numbers if number is not None), default=None)
    if reused is None:
        return None
    return Reuse(first=first, second=second, middle_number=reused, gap_s=gap.total_seconds())


def _forbidding_rule(first: Binding, second: Binding, policy: Policy) -> ConflictRule | None:
    """Return the rule that forbids the second bind, by what was known of the first one when it was made."""
    was_created = first.answered_at is not None and first.answered_at <= earliest_start(second)
    return conflict_rule(
        policy,
        held=first.mode,
        state=State.ACTIVE if was_created else State.IN_DOUBT,
        requested=second.mode,
        same_pair={first.phone_a, first.phone_b} == {second.phone_a, second.phone_b},
    )
