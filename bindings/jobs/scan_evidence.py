"""What a scan proves. Pure: rows and bindings in, verdicts out; nothing is read and nothing is written.

What is seen is evidence at once. What is not seen proves little: only two scans in opposite order and with
different page sizes, both complete, both with a live binding of ours seen as witness, and in agreement about
every such witness, prove anything. They prove a ghost; a doubt's absence only where no witness was missed at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.jobs.provider_scan import Scan
    from bindings.provider.outcome import ProviderBinding

READING_ERROR_S = 2.0  # expireTime is cut to whole seconds, and so is the Date that the skew comes from
ZONE_MISFIT_S = 600.0  # nothing but a wrong zone moves every row by ten minutes or more


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockTolerance:
    """How wrong an instant of the provider's list may be on our clock, and how old a stamp it accepts."""

    error: timedelta
    tolerance: timedelta

    @classmethod
    def of(cls, *, skew_s: float | None, tolerance_s: float) -> ClockTolerance:
        """From the measured skew to the provider and the setting of its tolerance, in seconds."""
        return cls(
            error=timedelta(seconds=READING_ERROR_S + abs(skew_s or 0.0)), tolerance=timedelta(seconds=tolerance_s)
        )


def same_pair(row: ProviderBinding, binding: Binding) -> bool:
    """Whether a row has the two phones of a binding, in whichever role."""
    return {row.phone_a.key, row.phone_b.key} == {binding.phone_a.key, binding.phone_b.key}


def matches_intent(row: ProviderBinding, intent: Binding, measure: ClockTolerance) -> bool:
    """Whether a row may be what an intent made: pair, mode, and an end that its request could have led to."""
    life = timedelta(seconds=intent.expire_s)
    earliest = intent.requested_at + life - measure.error
    latest = intent.send_by + measure.tolerance + life + measure.error
    mode = Mode.AXB if row.middle_number_a == row.middle_number_b else Mode.AXXB
    return same_pair(row, intent) and intent.mode is mode and earliest <= row.ends_at <= latest


def has_ended(row: ProviderBinding, at: datetime, measure: ClockTolerance) -> bool:
    """Whether a row is past its end; the provider may list such rows, and they hold nothing."""
    return row.ends_at + measure.error < at


def adoptions(
    strangers: Sequence[ProviderBinding], unsettled: Sequence[Binding], at: datetime, measure: ClockTolerance
) -> list[tuple[Binding, ProviderBinding]]:
    """The doubts that a row settles: exactly one row and one doubt of that pair; otherwise both are left alone.

    A pending binding is not adopted, and keeps a doubt of the same pair from being: its own answer may still
    come, and knows better.
    """
    found = []
    for row in strangers:
        doubts = [intent for intent in unsettled if same_pair(row, intent)]
        if len(doubts) != 1:
            continue
        doubt = doubts[0]
        rows = [
            other
            for other in strangers
            if matches_intent(other, doubt, measure)
            or (same_pair(other, doubt) and not has_ended(other, at, measure))
        ]
        if rows == [row] and doubt.state is State.IN_DOUBT and matches_intent(row, doubt, measure):
            found.append((doubt, row))
    return found


def absence_provable(doubt: Binding, first: Scan, second: Scan, measure: ClockTolerance) -> bool:
    """Whether both scans lay wholly in the time in which the binding, had it been made, must have been listed."""
    made_by = doubt.send_by + measure.tolerance + measure.error
    listed_until = doubt.requested_at + timedelta(seconds=doubt.expire_s) - measure.error
    return (
        doubt.state is State.IN_DOUBT
        and min(first.began, second.began) > made_by
        and max(first.ended, second.ended) < listed_until
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveBindingsSeen:
    """The bindings of ours that must have been listed all through a scan: which were not, and how many were."""

    missing: frozenset[str]
    seen: int


def ghosts(first: Scan, second: Scan, then: LiveBindingsSeen, again: LiveBindingsSeen) -> frozenset[str] | None:
    """The bindings that are gone at the provider, or None where the two scans prove nothing.

    A witness that only one scan missed shows that this scan is wrong about what it does not show. Losing more
    than were seen is a wrong list, not so many ends.
    """
    if not (first.complete and second.complete and then.seen and again.seen):
        return None
    if then.missing != again.missing or len(then.missing) > min(then.seen, again.seen):
        return None
    return then.missing


def shorter_end(row: ProviderBinding, binding: Binding, measure: ClockTolerance) -> datetime | None:
    """The end that callers should be told instead, where the provider's list says that it comes sooner (I6)."""
    if binding.state is not State.ACTIVE or binding.expires_at is None:
        return None
    sooner = row.ends_at < binding.expires_at - measure.error
    return row.ends_at - measure.error if sooner else None


def longer_hold(
    row: ProviderBinding, binding: Binding, guard: timedelta, measure: ClockTolerance
) -> datetime | None:
    """How long the phones must be held instead, where the provider's list says that it ends later (I4)."""
    held_until = row.ends_at + measure.error + guard
    late = row.ends_at - measure.error > (binding.expires_at or row.ends_at)
    held = binding.state in (State.ACTIVE, State.EXPIRED)
    return held_until if held and late and held_until > binding.held_until else None
