"""Decides whether a bind may start now: the limit of concurrent calls, the circuit breaker, and the clocks.

Checked before the first transaction, so that a bind refused here has no intent and has used up no key. No SQL
here, and the provider's answers are not interpreted here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from bindings.errors import Busy, ProviderAccountRefused
from bindings.fork_safety import ForkSensitive
from bindings.provider.circuit import describe
from bindings.provider.outcome import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.lifecycle.clock_monitor import ClockMonitor
    from bindings.provider.circuit import CircuitBreaker, CircuitOpen
    from bindings.provider.client import ProviderClient

RETRY_AFTER_S = 2


class BindAdmission(ForkSensitive):
    """Limits concurrent binds and rejects binds that cannot succeed (account refused, clock skew). Thread-safe.

    A forked child starts with every slot free: the binds under way at the fork are the parent's.
    """

    def __init__(
        self,
        client: ProviderClient | None,
        clocks: ClockMonitor,
        *,
        limit: int,
    ) -> None:
        self._client = client
        self._clocks = clocks
        self._limit = limit
        self._free_slots = [None] * limit  # a list: a semaphore would take a lock and ten calls for each bind
        self.watch_forks()

    def after_fork_in_child(self) -> None:
        """Free every slot."""
        self._free_slots = [None] * self._limit

    @contextmanager
    def slot(self, app_id: str) -> Iterator[None]:
        """Hold one of the slots while a bind runs; raise `Busy` or `ProviderAccountRefused` immediately."""
        slots = self._free_slots  # what a forked child puts back is not taken from its own
        try:
            slots.pop()
        except IndexError:
            raise Busy("too many binds are in flight in this process", retry_after_s=RETRY_AFTER_S) from None
        try:
            if self._client is None:
                yield
            else:
                with _ClosedCircuit(self._client.circuits.bind):
                    self._clocks.require_trusted(app_id)
                    yield
        finally:
            slots.append(None)

    def unbind_accepted(self) -> AbstractContextManager[None]:
        """Run a call that begins with an unbind; raise `ProviderAccountRefused` if it would be refused now."""
        return nullcontext() if self._client is None else _ClosedCircuit(self._client.circuits.unbind)


class _ClosedCircuit:
    """A `with` block that runs unless a circuit is open; the trial call of an open circuit is such a block.

    One that is let through and ends without a request (a phone is held here, a key is replayed) leaves the trial
    call to the next one.
    """

    __slots__ = ("_circuit", "_is_trial")

    def __init__(self, circuit: CircuitBreaker) -> None:
        self._circuit = circuit

    def __enter__(self) -> None:
        rejection = self._circuit.check()
        if rejection is not None:
            raise _circuit_error(rejection)
        self._is_trial = self._circuit.cause is not None

    def __exit__(self, *_: object) -> None:
        if self._is_trial:
            self._circuit.release_trial()


def _circuit_error(rejection: CircuitOpen) -> Busy | ProviderAccountRefused:
    cause, retry_after_s = rejection.cause, max(1, round(rejection.retry_in_s))
    if isinstance(cause, Refused):
        message = "the provider refused this account a moment ago; nothing was sent; see `bindings doctor`"
        return ProviderAccountRefused(
            message, status=cause.status, reason=cause.reason, retry_after_s=retry_after_s
        )
    message = f"binds wait, because two met {describe(cause)}; `bindings doubts` lists them; nothing was sent"
    return Busy(message, retry_after_s=retry_after_s)
