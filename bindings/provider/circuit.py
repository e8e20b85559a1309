"""The circuit breaker of the account: while the provider refuses the account itself, calls are rejected here.

Only the decision whether to call belongs here, no call. The circuit opens at the first refusal of the account,
because the next request would be refused too; it never opens for a refusal that concerns a single request.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from bindings.http_transport import NotSent, Unknown
from bindings.provider.outcome import (
    BindSucceeded,
    ProviderPage,
    Refusal,
    Refused,
    UnbindNotFound,
    UnbindSucceeded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.provider.outcome import BindOutcome, PageOutcome, UnbindOutcome

RETRY_AFTER_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitOpen:
    """Why a call is rejected: the last refusal of the account, and the seconds until the next trial call."""

    refusal: Refused
    retry_in_s: float


class AccountCircuitBreaker:
    """A circuit breaker: closed, open, or half-open. Thread-safe, in memory, one per client.

    Closed: every call is let through. Open: calls are rejected. Half-open: `retry_after_s` seconds have passed
    since the refusal or the last trial call, and the next caller is let through as the trial call. Call `check()`
    before a call to the provider and `record()` with its outcome. `monotonic` reads a clock in seconds.
    """

    def __init__(
        self, *, retry_after_s: float = RETRY_AFTER_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry_after_s = retry_after_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._refusal: Refused | None = None
        self._next_trial = 0.0

    @property
    def refusal(self) -> Refused | None:
        """Return the refusal that opened the circuit; None if it is closed. Does not use up the trial call."""
        return self._refusal

    @property
    def half_open(self) -> bool:
        """Return whether the next caller would be the trial call. Does not use it up."""
        return self._refusal is not None and self._monotonic() >= self._next_trial

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
                return None
            return CircuitOpen(refusal=self._refusal, retry_in_s=self._next_trial - now)

    def record(self, outcome: BindOutcome | UnbindOutcome | PageOutcome) -> None:
        """Open the circuit at a refusal of the account; close it at any other definite outcome."""
        match outcome:
            case Refused(refusal=Refusal.ACCOUNT):
                with self._lock:
                    self._refusal = outcome
                    self._next_trial = self._monotonic() + self._retry_after_s
            case BindSucceeded() | UnbindSucceeded() | UnbindNotFound() | ProviderPage() | Refused():
                with self._lock:
                    self._refusal = None
            case NotSent() | Unknown():
                pass
            case _:
                assert_never(outcome)
