"""How often somebody may ask: token buckets on the monotonic clock. For one thread, the event loop's.

Each replica counts for itself.
"""

from __future__ import annotations

import ipaddress
import time

TRIES = 10  # from one address at once, then one more every six seconds
TRIES_PER_S = 1 / 6
TRIES_OVERALL = 100
TRIES_OVERALL_PER_S = 5.0
MOST_ADDRESSES = 10_000
IPV6_SITE = 64  # somebody who has one address has all of these


class TokenBucket:
    """A token bucket; it holds one second's worth, or as many as `take` is told."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._at = float("-inf")
        self._left = 0.0

    def take(self, rate: float, now: float, most: float | None = None) -> bool:
        """Take one token, where `rate` come back each second; False where there is none."""
        self._left = min(rate if most is None else most, self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Put one token back."""
        self._left += 1


class SignInLimiter:
    """Tries to sign in with a key that is no good: few from one address, and not too many over all."""

    def __init__(self) -> None:
        self._overall = TokenBucket()
        self._of: dict[str, TokenBucket] = {}

    def take(self, address: str) -> bool:
        """Count a try before it is made, so that many at once count as many."""
        now = time.monotonic()
        if len(self._of) >= MOST_ADDRESSES:
            self._of.clear()
        own = self._of.setdefault(_site(address), TokenBucket())
        return own.take(TRIES_PER_S, now, TRIES) and self._overall.take(TRIES_OVERALL_PER_S, now, TRIES_OVERALL)

    def refund(self, address: str) -> None:
        """Take a try back: the key was good."""
        self._overall.give_back()
        if (own := self._of.get(_site(address))) is not None:
            own.give_back()


def _site(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if found.version == 4:  # noqa: PLR2004 -- the other one has sites
        return str(found)
    return str(ipaddress.ip_network((found, IPV6_SITE), strict=False))
