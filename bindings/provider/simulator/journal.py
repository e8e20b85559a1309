"""Recorded requests: what was received, decided and answered, and the counts of all of them.

The bodies contain phones: they are kept in memory for tests, are shown only by the control calls, and are never
logged. No rules and no sockets here.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.provider.simulator.faults import Call, FaultKind

MAX_REQUESTS = 20_000  # older ones are dropped; the counts stay


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRequest:
    """One request. `at` is the simulator's clock at its arrival, in Unix seconds.

    `call` is None for a path that the provider does not have. `decided` is the status that the rules returned, or
    None if they were not called; `answered` the status that was sent in an envelope, or None if none was (yet).
    """

    at: float
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)
    call: Call | None
    fault: FaultKind | None = None
    decided: str | None = None
    answered: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Counts since the start; the outer key is the call ("bind", "unbind", "page", "pools", "other").

    `decided` and `answered` count statuses as `RecordedRequest` defines them. They differ if a fault was injected:
    a lost reply is decided "0" and not answered.
    """

    received: Mapping[str, int]
    decided: Mapping[str, Mapping[str, int]]
    answered: Mapping[str, Mapping[str, int]]
    faults: Mapping[str, int]


class RequestLog:
    """The last 20 000 requests, and the counts of all. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._requests: dict[int, RecordedRequest] = {}
        self._received: Counter[str] = Counter()
        self._decided: dict[str, Counter[str]] = {}
        self._answered: dict[str, Counter[str]] = {}

    def add(self, request: RecordedRequest) -> int:
        """Record a request before it is processed; return its number, for `update`."""
        with self._lock:
            number = next(self._numbers)
            self._requests[number] = request
            self._requests.pop(number - MAX_REQUESTS, None)
            self._received[_name(request.call)] += 1
            return number

    def update(self, number: int, request: RecordedRequest) -> None:
        """Record the result of a request; called before the response is sent, so that a test can see it."""
        with self._lock:
            if number in self._requests:
                self._requests[number] = request
            name, decided, answered = _name(request.call), request.decided, request.answered
            if decided is not None:
                self._decided.setdefault(name, Counter())[decided] += 1
            if answered is not None:
                self._answered.setdefault(name, Counter())[answered] += 1

    def requests(self) -> tuple[RecordedRequest, ...]:
        """Return the requests that are kept, in the order of arrival."""
        with self._lock:
            return tuple(self._requests.values())

    def counts(self, faults: Mapping[str, int]) -> Counts:
        """Return a snapshot of the counts, with those of the injected `faults`."""
        with self._lock:
            return Counts(
                received=dict(self._received),
                decided={call: dict(statuses) for call, statuses in self._decided.items()},
                answered={call: dict(statuses) for call, statuses in self._answered.items()},
                faults=dict(faults),
            )


def _name(call: Call | None) -> str:
    return "other" if call is None else call.value
