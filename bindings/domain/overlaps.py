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
    """A binding with what each comparison with another one needs: a page of fifty makes 1 225 of them.

    A binding that starts before `latest_end` overlaps, and one that starts from `end` to `reuse_until` reuses.
    """

    binding: Binding
    start: datetime
    end: datetime
    latest_end: datetime
    reuse_until: datetime
    phones: frozenset[str]

    @classmethod
    def of(cls, binding: Binding) -> _Lifetime:
        """Return the lifetime of a binding."""
        end, held_until = earliest_end(binding), binding.held_until
        return cls(
            binding=binding,
            start=earliest_start(binding),
            end=end,
            latest_end=held_until if binding.ended_at is None else min(held_until, binding.ended_at),
            reuse_until=end + QUICK_REUSE,
            phones=frozenset((binding.phone_a.key, binding.phone_b.key)),
        )


def find_anomalies(bindings: Iterable[Binding], policy: Policy) -> list[Overlap | Reuse]:
    """Return the anomalies among these bindings, in the order of their starts."""
    lifetimes = [_Lifetime.of(binding) for binding in bindings if binding.state is not State.FAILED]
    lifetimes.sort(key=lambda lifetime: (lifetime.start, lifetime.binding.id))
    anomalies = [_anomaly(first, second, policy) for first, second in combinations(lifetimes, 2)]
    return [anomaly for anomaly in anomalies if anomaly is not None]


def _anomaly(earlier: _Lifetime, later: _Lifetime, policy: Policy) -> Overlap | Reuse | None:
    first, second = earlier.binding, later.binding
    if later.start < earlier.latest_end and not earlier.phones.isdisjoint(later.phones):
        return Overlap(first=first, second=second, rule=_forbidding_rule(first, second, policy))
    if not earlier.end <= later.start <= earlier.reuse_until or earlier.phones == later.phones:
        return None
    numbers = {first.middle_number_a, first.middle_number_b} & {second.middle_number_a, second.middle_number_b}
    reused = min((number for number in numbers if number is not None), default=None)
    if reused is None:
        return None
    gap_s = (later.start - earlier.end).total_seconds()
    return Reuse(first=first, second=second, middle_number=reused, gap_s=gap_s)


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
