"""The provider's clock, as the Date headers of its responses show it, and when they are believed.

A Date header may come from a gateway, a cache, or a clock that is set to local time, so alone it proves nothing.
What proves a clock is whether the provider accepts a timestamp: a success under this host's own time proves this
host's clock, a -16 disproves it. The classification of responses belongs to `client`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bindings.http_transport import parse_date
from bindings.provider import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.http_transport import Reply

CONFIRM_AFTER_S = 60.0  # between two Date headers that confirm each other
AGREEMENT_S = 5.0
MIN_CORRECTED_SKEW_S = 2.0
MAX_UNCONFIRMED_S = 60.0  # no more is allowed for because of a header that nothing confirms


@dataclass(frozen=True, slots=True)
class _Skew:
    """The provider's clock minus this host's, the largest error of that, and when it was measured; in seconds."""

    seconds: float
    error: float
    measured_at: float


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The Unix time of one request; `corrected` if it follows the provider's clock and not this host's."""

    seconds: int
    corrected: bool


class ProviderClock:
    """Measures the skew to the provider, and decides whether timestamps follow it.

    `wall` and `monotonic` are this host's clocks, in seconds. With `ignore_date` nothing is measured. Fields are
    replaced as a whole, so that threads need no lock.
    """

    def __init__(
        self, *, wall: Callable[[], float], monotonic: Callable[[], float], ignore_date: bool = False
    ) -> None:
        self.ignore_date = ignore_date
        self._wall = wall
        self._monotonic = monotonic
        self._measured: _Skew | None = None
        self._unconfirmed: _Skew | None = None
        self._believed: _Skew | None = None
        self._contradicted = False

    @property
    def measured_skew_s(self) -> float | None:
        """Return the provider's clock minus this host's by the newest Date header, also if that is not believed.

        None without a header. Accurate to half a second, as the header has whole seconds, plus half of the
        duration of the call.
        """
        return None if self._measured is None else self._measured.seconds

    @property
    def is_witness(self) -> bool:
        """Return True if Date headers have come, and no accepted timestamp contradicts them."""
        return self._measured is not None and not self._contradicted

    def fresh_skew_s(self, *, since: float) -> float | None:
        """Return the measured skew if it was measured since that reading of the monotonic clock, else None."""
        skew = self._measured
        return None if skew is None or skew.measured_at < since else skew.seconds

    @property
    def believed_skew_s(self) -> float | None:
        """Return the skew by which timestamps are corrected, or None while this host's own time is sent."""
        return None if self._believed is None else self._believed.seconds

    @property
    def allowance_s(self) -> float:
        """Return how far the provider's times may be from this host's clock, by its Date header."""
        if self._believed is not None:
            return abs(self._believed.seconds)
        return min(abs(self.measured_skew_s or 0.0), MAX_UNCONFIRMED_S)

    def timestamp(self) -> Timestamp:
        """Return the time to stamp a request with: this host's, or the provider's if a believed skew matters."""
        skew = self._believed
        if skew is None or abs(skew.seconds) <= max(MIN_CORRECTED_SKEW_S, skew.error):
            return Timestamp(int(self._wall()), corrected=False)
        return Timestamp(int(self._wall() + skew.seconds), corrected=True)

    def observe(self, reply: Reply, status: str, stamp: Timestamp) -> None:
        """Learn from a response of the provider itself to a request with this timestamp."""
        skew = self._measure(reply)
        if status == statuses.CLOCK:
            # A corrected timestamp that is refused disproves the header, one of this host disproves its clock.
            self._believed = None if stamp.corrected else skew
            self._unconfirmed = None
        elif status == statuses.SUCCESS and not stamp.corrected:
            self._believed = self._unconfirmed = None
            self._contradicted = skew is not None and abs(skew.seconds) > MAX_UNCONFIRMED_S
        elif skew is not None:
            self._confirm(skew)

    def _confirm(self, skew: _Skew) -> None:
        if self._believed is not None:
            self._believed = skew
            return
        first = self._unconfirmed
        if first is None or abs(first.seconds - skew.seconds) > AGREEMENT_S + first.error + skew.error:
            self._unconfirmed = skew
        elif skew.measured_at - first.measured_at >= CONFIRM_AFTER_S:
            self._believed = skew

    def _measure(self, reply: Reply) -> _Skew | None:
        """Return the skew by a Date header, or None without a usable one; one with an Age comes from a cache."""
        provider_time = None if self.ignore_date or reply.age is not None else parse_date(reply.date)
        if provider_time is None:
            return None
        now = self._monotonic()
        half = (now - reply.sent) / 2
        # The header is cut to whole seconds: on average it is half a second behind.
        skew = _Skew(seconds=provider_time + 0.5 - (self._wall() - half), error=0.5 + half, measured_at=now)
        self._measured = skew
        return skew
