"""The circuit breakers: while the provider refuses the account for a call, that call is not made.

Each call has a circuit of its own, because an account may be allowed to bind and not to read the list. Only the
decision whether to call belongs here, no call. A circuit opens at the first refusal of the account, because the
next request would be refused too; it never opens for a refusal that concerns a single request.

The circuit of binds also opens when two binds in a row get the same one of these answers: an undocumented status,
a success without its data, a response of something that is not the provider's API (a wrong address, a firewall),
or a rate limit. Each such bind is in doubt and holds its phones, for its whole lifetime if no list resolves it, so
no third one is sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, assert_never

from bindings.fork_safety import ForkSafeLock
from bindings.http_transport import NotSent, Unknown
from bindings.provider import statuses
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

CALLS = ("bind", "unbind", "page", "pools")
RETRY_AFTER_S = 30.0
QUERY_RETRY_AFTER_S = 600.0  # no caller waits for a query, and some accounts never get that permission
MAX_UNCLEAR_RETRY_S = 600.0  # each trial call leaves a doubt, so the wait doubles
FORGOTTEN_AFTER_S = 3_600.0  # without another refusal: nothing is known about a call that was not made since
_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
LIMITED_RETRY_AFTER_S = 2.0  # after a rate limit that names no time


@dataclass(frozen=True, kw_only=True, slots=True)
class CircuitOpen:
    """Why a call is rejected: the outcome that opened the circuit, and the seconds until the next trial call."""

    cause: Refused | Unknown
    retry_in_s: float


class CircuitBreaker:
    """The circuit breaker of one call: closed, open, or half-open. Thread-safe, in memory.

    Closed: every call is let through. Open: calls are rejected. Half-open: `retry_after_s` seconds have passed
    since the circuit opened or since the last trial call, and the next caller is let through as the trial call. A
    circuit that has not opened again for an hour is closed. Call `check()` before a call to the provider and
    `record()` with its outcome. With `opens_on_unclear` the circuit opens at a repeated unclear outcome too, and
    each unclear trial call doubles the wait. `monotonic` reads a clock in seconds.
    """

    def __init__(
        self,
        *,
        retry_after_s: float = RETRY_AFTER_S,
        opens_on_unclear: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retry_after_s = retry_after_s
        self._opens_on_unclear = opens_on_unclear
        self._monotonic = monotonic
        self._lock = ForkSafeLock()
        self._cause: Refused | Unknown | None = None
        self._wait_s = retry_after_s
        self._opened_at = 0.0
        self._next_trial = 0.0
        self._trial_is_open = False  # a caller was let through, and no outcome was recorded since
        self._last_unclear: str | None = None

    @property
    def cause(self) -> Refused | Unknown | None:
        """Return the outcome that opened the circuit; None if it is closed. Does not use up the trial call."""
        cause = self._cause
        if cause is None or self._monotonic() >= self._opened_at + FORGOTTEN_AFTER_S:
            return None
        return cause

    @property
    def half_open(self) -> bool:
        """Return whether the next caller would be the trial call. Does not use it up."""
        return self.cause is not None and self._monotonic() >= self._next_trial

    @property
    def rejects(self) -> bool:
        """Return whether a call would be rejected now. Does not use up the trial call."""
        return self.cause is not None and not self.half_open

    def check(self) -> CircuitOpen | None:
        """Return None if the call may be made; otherwise why it is rejected.

        While the circuit is open, one caller per wait is let through as the trial call. If its outcome is never
        recorded, there is another trial call after the same time: a lost caller cannot keep the circuit open.
        """
        if self._cause is None:
            return None
        with self._lock:
            cause, now = self.cause, self._monotonic()
            if cause is None:
                return None
            if now >= self._next_trial:
                self._next_trial = now + self._wait_s  # other callers are rejected meanwhile
                self._trial_is_open = True
                return None
            return CircuitOpen(cause=cause, retry_in_s=self._next_trial - now)

    def release_trial(self) -> None:
        """Let the next caller make the trial call, if the one that was let through has made no call."""
        with self._lock:
            if self._trial_is_open:
                self._trial_is_open = False
                self._next_trial = self._monotonic()

    def record(self, outcome: BindOutcome | UnbindOutcome | PageOutcome | PoolsOutcome) -> None:
        """Open the circuit at a refusal of the account; close it at any other definite outcome."""
        with self._lock:
            match outcome:
                case Refused(refusal=Refusal.ACCOUNT):
                    self._open(outcome, self._retry_after_s)
                case (
                    BindSucceeded()
                    | UnbindSucceeded()
                    | UnbindNotFound()
                    | ProviderPage()
                    | ProviderPools()
                    | Refused()
                ):
                    self._cause = self._last_unclear = None
                case Unknown():
                    self._record_unclear(outcome)
                case NotSent():
                    pass
                case _:
                    assert_never(outcome)
            self._trial_is_open = False

    def _record_unclear(self, outcome: Unknown) -> None:
        unclear, last = _repeatable(outcome), self._last_unclear
        self._last_unclear = unclear
        if not self._opens_on_unclear or unclear is None or unclear != last:
            return
        wait_s = LIMITED_RETRY_AFTER_S if outcome.is_rate_limited else self._retry_after_s
        if isinstance(self.cause, Unknown):  # a call that began before the circuit opened shortens no wait
            wait_s = 2 * self._wait_s if self._trial_is_open else max(wait_s, self._wait_s)
        wait_s = max(wait_s, outcome.retry_after_s or 0.0)
        self._open(outcome, min(wait_s, MAX_UNCLEAR_RETRY_S))

    def _open(self, cause: Refused | Unknown, wait_s: float) -> None:
        self._cause, self._wait_s, self._opened_at = cause, wait_s, self._monotonic()
        self._next_trial = self._opened_at + wait_s


class Circuits:
    """The circuit breakers of one client, one for each of `CALLS`."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.bind = CircuitBreaker(opens_on_unclear=True, monotonic=monotonic)
        self.unbind = CircuitBreaker(monotonic=monotonic)
        self.page = CircuitBreaker(retry_after_s=QUERY_RETRY_AFTER_S, monotonic=monotonic)
        self.pools = CircuitBreaker(retry_after_s=QUERY_RETRY_AFTER_S, monotonic=monotonic)

    def open_calls(self) -> frozenset[str]:
        """Return the calls whose circuit is not closed."""
        return frozenset(call for call in CALLS if getattr(self, call).cause is not None)


def describe(cause: Refused | Unknown) -> str:
    """Return what opened a circuit, in words."""
    if isinstance(cause, Refused):
        return f"status {cause.status}: {statuses.meaning(cause.status)}"
    return f"{_repeatable(cause)}, twice in a row"


def _repeatable(outcome: Unknown) -> str | None:
    """Return what the next bind would meet again; None for an outcome that passes, such as a lost response."""
    status, http_status = outcome.status, outcome.http_status
    if outcome.is_rate_limited:
        return "HTTP 429, a rate limit"
    if status is not None and statuses.find(status) is None:
        return f"the undocumented status {status}"
    if http_status is not None and (http_status >= _SERVER_ERROR or http_status == HTTPStatus.REQUEST_TIMEOUT):
        return None
    if status == statuses.SUCCESS:
        return "a success that is not as documented"
    return None if status or http_status is None else f"HTTP {http_status} without the documented envelope"
