"""When a bind began to live, and for how long it holds its phones: two clocks brought together.

The database's clock decides, the monotonic clock of this process measures the call. Here readings of the latter
become instants of the former, always so that a binding is said to end no later than at the provider (I6), and its
phones are held no shorter (I4). Nothing here reads a clock; how long a request may take to leave is in
`store.reserve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bindings.store import settle

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.provider.outcome import BindSucceeded


@dataclass(frozen=True, kw_only=True, slots=True)
class SendClock:
    """A recorded intent, and this process's monotonic clock before and after it was recorded.

    The database read its clock somewhere between the two. Counting from `after` gives an instant that is
    never too late, counting from `before` one that is never too early.
    """

    intent: Binding
    before: float
    after: float

    def sent_at(self, sent: float) -> datetime:
        """The instant of a reading of the monotonic clock, or one a little before it."""
        return self.intent.requested_at + timedelta(seconds=max(0.0, sent - self.after))

    def success(self, made: BindSucceeded, guard_s: float) -> settle.Success:
        """What the provider's yes means for the binding: ends as early as possible, held as long (I6, I4)."""
        life = timedelta(seconds=self.intent.expire_s)
        sent_at = self.sent_at(made.sent)
        answered_at = self.intent.requested_at + timedelta(seconds=made.answered - self.before)
        return settle.Success(
            bind_id=made.bind_id,
            middle_number_a=made.middle_number_a,
            middle_number_b=made.middle_number_b,
            sent_at=sent_at,
            answered_at=answered_at,
            expires_at=sent_at + life,
            held_until=answered_at + life + timedelta(seconds=guard_s),
            warn_s=self.intent.warn_s,
        )
