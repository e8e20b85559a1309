"""Rate limits: token buckets on the monotonic clock. For the event loop's thread only.

Each replica counts its own requests.
"""

from __future__ import annotations

import ipaddress
import time

from bindings.domain import addresses

ATTEMPTS = 10  # a burst from one address, then one more every six seconds
ATTEMPTS_PER_S = 1 / 6
ATTEMPTS_OVERALL = 100
ATTEMPTS_OVERALL_PER_S = 5.0
MAX_ADDRESSES = 10_000
IPV6_SITE = 64  # prefix length: a client that has one of these addresses has all of them


class TokenBucket:
    """A token bucket that starts full. It holds one second's worth of tokens, or the `capacity` of a `take`."""

    __slots__ = ("_tokens", "_updated_at")

    def __init__(self) -> None:
        self._updated_at = float("-inf")
        self._tokens = 0.0

    def take(self, rate: float, now: float, capacity: float | None = None) -> bool:
        """Take one token, at `rate` new tokens per second; return False if there is none."""
        limit = rate if capacity is None else capacity
        self._tokens = min(limit, self._tokens + (now - self._updated_at) * rate)
        self._updated_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Put one token back."""
        self._tokens += 1


class AttemptLimiter:
    """Limits failed attempts to authenticate: few from one address, and not too many from all together."""

    def __init__(self) -> None:
        self._overall = TokenBucket()
        self._by_site: dict[str, TokenBucket] = {}

    def take(self, address: str) -> bool:
        """Count an attempt; return False if it is one too many. Call it first, so that parallel attempts count."""
        now = time.monotonic()
        if len(self._by_site) >= MAX_ADDRESSES:
            self._by_site.clear()
        bucket = self._by_site.setdefault(_site(address), TokenBucket())
        return bucket.take(ATTEMPTS_PER_S, now, ATTEMPTS) and self._overall.take(
            ATTEMPTS_OVERALL_PER_S, now, ATTEMPTS_OVERALL
        )

    def refund(self, address: str) -> None:
        """Take an attempt back: it did not fail."""
        self._overall.give_back()
        if (bucket := self._by_site.get(_site(address))) is not None:
            bucket.give_back()


def _site(address: str) -> str:
    """Return the address, or for IPv6 its network: one client has many addresses of it."""
    try:
        parsed = addresses.parse(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.ip_network((parsed, IPV6_SITE), strict=False))
