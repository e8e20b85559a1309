"""Converts readings of this process's monotonic clock to instants of the database's clock.

The database's clock decides; the monotonic clock measures the call. A conversion never says that a binding ends
later than at the provider (I6), or that its phones are held for less time than there (I4). Reads no clock; how
long a request may take to leave is in `store.reserve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bindings.domain.takeover import takeover_detail
from bindings.store import settle

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.provider.outcome import BindSucceeded


@lru_cache(maxsize=1_024)
def _duration(seconds: float) -> timedelta:
    """Return the duration of a binding or of its guard: a few values, each of many binds."""
    return timedelta(seconds=seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predecessor:
    """The binding that a successor takes over from, and the instant at which its end was confirmed."""

    binding: Binding
    ended_at: datetime


class SendClock(NamedTuple):
    """A committed intent, and this process's monotonic clock before and after its transaction.

    The database read its clock somewhere between the two. Counting from `after` gives an instant that is never too
    late, counting from `before` one that is never too early. `predecessor` is that of a successor.
    """

    intent: Binding
    before: float
    after: float
    predecessor: Predecessor | None = None

    def sent_at(self, sent: float) -> datetime:
        """Return the database instant of a monotonic reading, or one slightly earlier."""
        return self.intent.requested_at + timedelta(seconds=max(0.0, sent - self.after))

    def success(self, outcome: BindSucceeded, guard_s: float) -> settle.Success:
        """Return what a successful bind records: its earliest possible end (I6) and longest possible hold (I4)."""
        lifetime = _duration(self.intent.provider_expire_s)
        hold = lifetime + _duration(guard_s)
        sent_at = self.sent_at(outcome.sent)
        answered_at = self.intent.requested_at + timedelta(seconds=outcome.answered - self.before)
        return settle.Success(
            bind_id=outcome.bind_id,
            middle_number_a=outcome.middle_number_a,
            middle_number_b=outcome.middle_number_b,
            sent_at=sent_at,
            answered_at=answered_at,
            expires_at=sent_at + _duration(self.intent.expire_s),
            provider_expires_at=None if self.intent.max_expire_s is None else sent_at + lifetime,
            held_until=answered_at + hold,
            warn_s=self.intent.warn_s,
            hold=hold,
            longest_hold=self.intent.held_until,
            takeover=self._takeover(outcome, answered_at),
        )

    def _takeover(self, outcome: BindSucceeded, answered_at: datetime) -> dict[str, Any] | None:
        """Return what the event of a successor's success says of the takeover; None without a predecessor."""
        if self.predecessor is None:
            return None
        numbers = {self.intent.phone_a: outcome.middle_number_a, self.intent.phone_b: outcome.middle_number_b}
        gap = (self.predecessor.ended_at, answered_at)
        return takeover_detail(self.predecessor.binding, numbers, gap=gap)
