"""The account circuit: when the provider refuses the account itself, stop asking for a while.

Here lives the decision when to ask again, and nothing that asks. It opens at the first account refusal,
because the next request would meet the same one; it never opens for what is wrong with a single request.
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
    """Refuse now: the last refusal of the account, and the seconds until somebody may try again."""

    refusal: Refused
    retry_in_s: float


class AccountCircuitBreaker:
    """Closed while the account works; thread-safe, in memory, one per client.

    Call `check()` before a call to the provider and `record()` with its outcome. `retry_after_s` is how long
    callers are turned away between two trials; `monotonic` reads a clock in seconds.
    """

    def __init__(
        self, *, retry_after_s: float = RETRY_AFTER_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry_after_s = retry_after_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._refusal: Refused | None = None
        self._next_try = 0.0

    @property
    def refusal(self) -> Refused | None:
        """The account refusal that holds the circuit open, or None while it is closed. Takes no trial."""
        return self._refusal

    @property
    def half_open(self) -> bool:
        """Whether it is open and the next caller goes ahead as the trial. Takes no trial."""
        return self._refusal is not None and self._monotonic() >= self._next_try

    def check(self) -> CircuitOpen | None:
        """None: go ahead and call. Otherwise refuse the caller at once, with what this returns.

        While open, one caller per `retry_after_s` goes ahead as the trial. A trial that never reports is
        followed by another one after the same time, so that a lost caller cannot keep the circuit open.
        """
        with self._lock:
            if self._refusal is None:
                return None
            now = self._monotonic()
            if now >= self._next_try:
                self._next_try = now + self._retry_after_s  # the others keep waiting for this one
                return None
            return CircuitOpen(refusal=self._refusal, retry_in_s=self._next_try - now)

    def record(self, outcome: BindOutcome | UnbindOutcome | PageOutcome) -> None:
        """Learn from the outcome of any call: a definite answer opens or closes it."""
        match outcome:
            case Refused(why=Refusal.ACCOUNT):
                with self._lock:
                    self._refusal = outcome
                    self._next_try = self._monotonic() + self._retry_after_s
            case BindSucceeded() | UnbindSucceeded() | UnbindNotFound() | ProviderPage() | Refused():
                with self._lock:
                    self._refusal = None
            case NotSent() | Unknown():
                pass
            case _:
                assert_never(outcome)
