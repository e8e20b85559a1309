"""What scans prove. Pure functions of rows and bindings; nothing is read and nothing is written.

A row that is listed is evidence immediately, except about what has changed within the list's lag. A row that is
missing proves something only in two proof scans: in opposite order and with different page sizes, both complete
and without odd rows, both listing at least one of our live bindings, and in agreement about which live bindings
are missing. They prove a ghost; and, if no live binding is missing, that an in-doubt binding is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.domain.binding import Mode, State
from bindings.store.queries import LONGEST_SPAN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.jobs.provider_scan import Scan
    from bindings.provider.outcome import ProviderBinding

READING_ERROR_S = 2.0  # expireTime is cut to whole seconds, and so is the Date that the skew comes from
ERROR_STEP = timedelta(seconds=10)
LIST_LAG = timedelta(seconds=60)  # how long the provider's list may take to show a change
LAST_DIGITS = 7  # at the end of a phone, the same in every notation
ZONE_MISFIT_S = 600.0  # nothing but a wrong zone moves every row by ten minutes or more ...
LONGEST_ZONE_MISFIT_S = 27 * 3_600.0  # ... and no zone moves one by more than the 26 hours between two of them


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockTolerance:
    """How far an instant of the provider's list may be from our clock, and how old a timestamp it accepts."""

    error: timedelta
    timestamp_age: timedelta

    @classmethod
    def of(cls, *, skew_s: float, tolerance_s: float) -> ClockTolerance:
        """Return the tolerance for a skew to the provider and the configured age of a timestamp, in seconds."""
        return cls(
            error=timedelta(seconds=READING_ERROR_S + skew_s),
            timestamp_age=timedelta(seconds=tolerance_s),
        )

    @property
    def hold_error(self) -> timedelta:
        """Return the error in whole steps, rounded up: no hold is extended because a clock was measured again."""
        return -(-self.error // ERROR_STEP) * ERROR_STEP


def same_pair(row: ProviderBinding, binding: Binding) -> bool:
    """Return True if a row has the two phones of a binding, as A and B or swapped."""
    return {row.phone_a.key, row.phone_b.key} == {binding.phone_a.key, binding.phone_b.key}


def last_digits(pair: ProviderBinding | Binding) -> frozenset[str]:
    """Return the last digits of both phones: the same for a row and a binding that may have the same phones.

    A list may write some phones without their country code, or with a trunk prefix.
    """
    return frozenset(phone.key[-LAST_DIGITS:] for phone in (pair.phone_a, pair.phone_b))


def same_numbers(row: ProviderBinding, binding: Binding) -> bool:
    """Return True if each party has the recorded middle number; the provider may list the parties swapped."""
    numbers = (row.middle_number_a, row.middle_number_b)
    if row.phone_a != binding.phone_a:
        numbers = numbers[::-1]
    return numbers == (binding.middle_number_a, binding.middle_number_b)


def is_under_another_id(row: ProviderBinding, binding: Binding, tolerance: ClockTolerance) -> bool:
    """Return True if a row with an unknown bind_id is an active binding in every other respect.

    The provider may have numbered it anew, or its list may round ids that have more digits than a float.
    """
    if binding.state is not State.ACTIVE or binding.provider_end is None:
        return False
    is_same_end = binding.provider_end - tolerance.error <= row.ends_at <= binding.held_until
    return is_same_end and same_pair(row, binding) and same_numbers(row, binding)


def binding_of(row: ProviderBinding, candidates: Sequence[Binding], app_id: str | None) -> Binding | None:
    """Return our binding that a row of an application's list is, or None if the row is not ours.

    `candidates` are our bindings with its bind_id. A bind_id names one living binding of an application, and may
    be used again: an ended binding, and one of another application, must have the pair of the row too. Without an
    `app_id` the list is that of the account.
    """
    living = [binding for binding in candidates if binding.app_id == app_id and not binding.state.terminal]
    of_pair = [binding for binding in candidates if same_pair(row, binding)]
    return next(
        iter(living),
        max(
            of_pair,
            key=lambda binding: (not binding.state.terminal, binding.app_id == app_id, binding.requested_at),
            default=None,
        ),
    )


def matches_intent(row: ProviderBinding, intent: Binding, tolerance: ClockTolerance) -> bool:
    """Return True if a row may be the binding of an intent: its pair, its mode, and an end that it can have."""
    lifetime = timedelta(seconds=intent.provider_expire_s)
    earliest = intent.requested_at + lifetime - tolerance.error
    latest = intent.send_by + tolerance.timestamp_age + lifetime + tolerance.error
    mode = Mode.AXB if row.middle_number_a == row.middle_number_b else Mode.AXXB
    return same_pair(row, intent) and intent.mode is mode and earliest <= row.ends_at <= latest


def has_ended(row: ProviderBinding, at: datetime, tolerance: ClockTolerance) -> bool:
    """Return True if a row is past its end; the provider may list such rows, but they hold no phone."""
    return row.ends_at + tolerance.error < at


def is_revenant(row: ProviderBinding, binding: Binding, scan_started_at: datetime) -> bool:
    """Return True if a live row holds the phones of its binding, which has ended here.

    Not if the binding's own hold covers the end of the row, nor if the row may be stale.
    """
    is_covered = binding.held_until >= row.ends_at
    return binding.state.terminal and not is_covered and not may_be_stale(binding, scan_started_at)


def may_be_stale(binding: Binding, scan_started_at: datetime) -> bool:
    """Return True if the list may show a binding only because it does not have its unbind yet.

    That is so if the unbind was less than the list's lag before the scan, or during it; an end by time does not
    depend on the list.
    """
    unbound_at = _unbound_at(binding)
    return unbound_at is not None and unbound_at > scan_started_at - LIST_LAG


def _unbound_at(binding: Binding) -> datetime | None:
    """Return when an unbind ended a binding at the provider, or slightly later; None if it ended there by time.

    The release of an expired binding is recorded only as its end to the hold of the phones, which otherwise
    lasts until after the longest possible lifetime.
    """
    if binding.state is State.UNBOUND:
        return binding.ended_at
    lifetime = timedelta(seconds=binding.provider_expire_s)
    is_released = binding.state is State.EXPIRED and binding.held_until < binding.requested_at + lifetime
    return binding.held_until if is_released else None


def adoptions(
    unknown_rows: Sequence[ProviderBinding], unsettled: Sequence[Binding], at: datetime, tolerance: ClockTolerance
) -> list[tuple[Binding, ProviderBinding]]:
    """Return the in-doubt bindings that a row settles: exactly one row and one unsettled binding of that pair.

    A pending binding is not adopted, and a doubt of its pair is not adopted beside it: the pending one's own
    answer may still arrive.
    """
    pairs = []
    for row in unknown_rows:
        doubts = [intent for intent in unsettled if same_pair(row, intent)]
        if len(doubts) != 1:
            continue
        doubt = doubts[0]
        rows = [
            other
            for other in unknown_rows
            if matches_intent(other, doubt, tolerance)
            or (same_pair(other, doubt) and not has_ended(other, at, tolerance))
        ]
        if rows == [row] and doubt.state is State.IN_DOUBT and matches_intent(row, doubt, tolerance):
            pairs.append((doubt, row))
    return pairs


def absence_provable(doubt: Binding, first: Scan, second: Scan, tolerance: ClockTolerance) -> bool:
    """Return True if both scans ran entirely while the binding, if it exists, must have been listed.

    It is made within the age of a timestamp, and listed within the list's lag after that; the age is so long that
    the longer of the two covers both.
    """
    listed_by = doubt.send_by + max(tolerance.timestamp_age, LIST_LAG) + tolerance.error
    listed_until = doubt.requested_at + timedelta(seconds=doubt.provider_expire_s) - tolerance.error
    return (
        doubt.state is State.IN_DOUBT
        and min(first.started_at, second.started_at) > listed_by
        and max(first.ended_at, second.ended_at) < listed_until
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveBindingsListed:
    """Of the bindings that must have been listed throughout a scan: the ids that were not, and how many were."""

    missing: frozenset[str]
    listed_count: int


def ghosts(
    first: Scan, second: Scan, first_live: LiveBindingsListed, second_live: LiveBindingsListed
) -> frozenset[str] | None:
    """Return the bindings that are gone at the provider, or None if the two scans prove nothing.

    A live binding that only one scan missed shows that this scan is incomplete. More missing than seen is a wrong
    list, not so many ends.
    """
    if not (
        first.proves_absence and second.proves_absence and first_live.listed_count and second_live.listed_count
    ):
        return None
    missing = first_live.missing
    if missing != second_live.missing or len(missing) > min(first_live.listed_count, second_live.listed_count):
        return None
    return missing


def ends_before_request(row: ProviderBinding, binding: Binding, tolerance: ClockTolerance) -> bool:
    """Return True if a row has an end that the binding cannot have: it is written in another zone, or wrong."""
    return row.ends_at + tolerance.error < binding.requested_at


def shorter_end(row: ProviderBinding, binding: Binding, tolerance: ClockTolerance) -> datetime | None:
    """Return the end that no promised end may be later than, if the list has an earlier one (I6); else None."""
    if (
        binding.state is not State.ACTIVE
        or binding.provider_end is None
        or ends_before_request(row, binding, tolerance)
    ):
        return None
    ends_earlier = row.ends_at < binding.provider_end - tolerance.error
    return row.ends_at - tolerance.error if ends_earlier else None


def longer_hold(
    row: ProviderBinding, binding: Binding, guard: timedelta, tolerance: ClockTolerance
) -> datetime | None:
    """Return until when the phones must be held, if the provider's list has a later end (I4); else None.

    Not past the longest span of a binding: a trace reads no further. What is listed after that is a revenant.
    """
    held_until = min(row.ends_at + tolerance.error + guard, binding.requested_at + LONGEST_SPAN)
    late = row.ends_at - tolerance.error > (binding.provider_end or row.ends_at)
    is_active = binding.state is State.ACTIVE
    return held_until if is_active and late and held_until > binding.held_until else None
