"""The circuit breakers: while the provider refuses the account for a call, that call is not made.

Each call has a circuit of its own, because an account may be allowed to bind and not to read the list. Only the
decision whether to call belongs here, no call. A circuit opens at the first refusal of the account, because the
next request would be refused too; it never opens for a refusal that concerns a single request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from bindings.fork_safety import ForkSafeLock
from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import (
    BindSucceeded,
    ProviderPage,
    ProviderPools,
    Refusal,
    Refused,
    UnbindNotFound,
    UnbindSucceeded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.outcome import BindOutcome, PageOutcome, PoolsOutcome, UnbindOutcome

RETRY_AFTER_S = 30.0
QUERY_RETRY_AFTER_S = 600.0  # no caller waits for a query, and some accounts never get that permission


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitOpen:
    """Why a call is rejected: the last refusal of the account, and the seconds until the next trial call."""

    refusal: Refused
    retry_in_s: float


class CircuitBreaker:
    """The circuit breaker of one call: closed, open, or half-open. Thread-safe, in memory.

    Closed: every call is let through. Open: calls are rejected. Half-open: `retry_after_s` seconds have passed
    since the refusal or the last trial call, and the next caller is let through as the trial call. Call `check()`
    before a call to the provider and `record()` with its outcome. `monotonic` reads a clock in seconds.
    """

    def __init__(
        self, *, retry_after_s: float = RETRY_AFTER_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry_after_s = retry_after_s
        self._monotonic = monotonic
        self._lock = ForkSafeLock()
        self._refusal: Refused | None = None
        self._next_trial = 0.0
        self._trial_is_open = False  # a caller was let through, and no outcome was recorded since

    @property
    def refusal(self) -> Refused | None:
        """Return the refusal that opened the circuit; None if it is closed. Does not use up the trial call."""
        return self._refusal

    @property
    def half_open(self) -> bool:
        """Return whether the next caller would be the trial call. Does not use it up."""
        return self._refusal is not None and self._monotonic() >= self._next_trial

    @property
    def rejects(self) -> bool:
        """Return whether a call would be rejected now. Does not use up the trial call."""
        return self._refusal is not None and not self.half_open

    def check(self) -> CircuitOpen | None:
        """Return None if the call may be made; otherwise why it is rejected.

        While the circuit is open, one caller per `retry_after_s` is let through as the trial call. If its outcome
        is never recorded, there is another trial call after the same time: a lost caller cannot keep the circuit
        open.
        """
        with self._lock:
            if self._refusal is None:
                return None
            now = self._monotonic()
            if now >= self._next_trial:
                self._next_trial = now + self._retry_after_s  # other callers are rejected meanwhile
                self._trial_is_open = True
                return None
            return CircuitOpen(refusal=self._refusal, retry_in_s=self._next_trial - now)

    def release_trial(self) -> None:
        """Let the next caller make the trial call, if the one that was let through has made no call."""
        with self._lock:
            if self._trial_is_open:
                self._trial_is_open = False
                self._next_trial = self._monotonic()

    def record(self, outcome: BindOutcome | UnbindOutcome | PageOutcome | PoolsOutcome) -> None:
        """Open the circuit at a refusal of the account; close it at any other definite outcome."""
        with self._lock:
            self._trial_is_open = False
            match outcome:
                case Refused(refusal=Refusal.ACCOUNT):
                    self._refusal = outcome
                    self._next_trial = self._monotonic() + self._retry_after_s
                case (
                    BindSucceeded()
                    | UnbindSucceeded()
                    | UnbindNotFound()
                    | ProviderPage()
                    | ProviderPools()
                    | Refused()
                ):
                    self._refusal = None
                case NotSent() | Unknown():
                    pass
                case _:
                    assert_never(outcome)


CALLS = ("bind", "unbind", "page", "pools")


class Circuits:
    """The circuit breakers of one client, one for each of `CALLS`."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.bind = CircuitBreaker(monotonic=monotonic)
        self.unbind = CircuitBreaker(monotonic=monotonic)
        self.page = CircuitBreaker(retry_after_s=QUERY_RETRY_AFTER_S, monotonic=monotonic)
        self.pools = CircuitBreaker(retry_after_s=QUERY_RETRY_AFTER_S, monotonic=monotonic)

    def open_calls(self) -> frozenset[str]:
        """Return the calls whose circuit is not closed."""
        return frozenset(call for call in CALLS if getattr(self, call).refusal is not None)
