"""A simulation of binds on one PostgreSQL server with any number of cores, from the cost of one bind.

Each caller is a loop: the client's part, the first statement, the provider's call, the second statement. A
statement waits for a core in the order of arrival, computes, and then waits until the log is on the disk; a flush
of the log serves all statements that wait when it begins (group commit). Contention inside of the server is not
simulated: its locks, caches and memory bandwidth cost more with more cores, so the results are an upper bound.
Pure; the clock of the simulation is a number.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 1
SHAPE = 4.0  # of the gamma distribution: the standard deviation is half of the mean
WARM_UP_SHARE = 0.2  # of the simulated binds, which are not counted


@dataclass(frozen=True, kw_only=True, slots=True)
class BindCost:
    """What one bind costs, in seconds: CPU time of the client and of the server, and what it waits for.

    All are means. The server's part is in equal halves in its two statements. `client_on_server` is True if the
    clients compute on the cores of the server, as on the machine of a bench.
    """

    client_s: float
    server_s: float
    flush_s: float
    round_trip_s: float
    provider_s: float
    client_on_server: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """The result of a simulation: binds per second, and how long the bookkeeping of a bind took, in seconds."""

    rate: float
    median_s: float
    p99_s: float


@dataclass(kw_only=True)
class _Simulation:
    """The state of a simulation: the clock, what happens next, the cores, and the flush of the log."""

    cores: int
    flush_s: float
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    ready: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    unflushed: list[Callable[[], None]] = field(default_factory=list)
    flushing: bool = False
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after a time in which nothing is used."""
        heapq.heappush(self.events, (self.now + seconds, next(self._order), then))

    def compute(self, seconds: float, then: Callable[[], None]) -> None:
        """Use a core for `seconds` once one is free, then call `then`."""
        self.ready.append((seconds, then))
        self._start()

    def flush(self, then: Callable[[], None]) -> None:
        """Call `then` once a flush that begins now or later has ended."""
        self.unflushed.append(then)
        if not self.flushing:
            self._begin_flush()

    def step(self) -> None:
        """Advance the clock to the next event."""
        self.now, _, then = heapq.heappop(self.events)
        then()

    def _start(self) -> None:
        while self.cores and self.ready:
            seconds, then = self.ready.popleft()
            self.cores -= 1
            self.after(seconds, partial(self._release, then))

    def _release(self, then: Callable[[], None]) -> None:
        self.cores += 1
        then()
        self._start()

    def _begin_flush(self) -> None:
        waiting, self.unflushed = self.unflushed, []
        self.flushing = bool(waiting)
        if waiting:
            self.after(self.flush_s, lambda: self._end_flush(waiting))

    def _end_flush(self, waiting: list[Callable[[], None]]) -> None:
        for then in waiting:
            then()
        self._begin_flush()


def simulate(cost: BindCost, *, cores: int, callers: int, binds: int) -> Capacity:
    """Simulate `callers` that bind again and again until `binds` are complete; the same input, the same result.

    Times of CPUs and of the provider vary by a gamma distribution. The callers start one after the other within
    the time of one bind, so that they are not in step.
    """
    numbers = random.Random(SEED)
    simulation = _Simulation(cores=cores, flush_s=cost.flush_s)
    completed: list[tuple[float, float]] = []  # when, and how long the bookkeeping took

    def varied(mean_s: float) -> float:
        return mean_s * numbers.gammavariate(SHAPE, 1 / SHAPE)

    def begin() -> None:
        started_at, provider_s = simulation.now, varied(cost.provider_s)

        def client(then: Callable[[], None]) -> None:
            use = simulation.compute if cost.client_on_server else simulation.after
            use(varied(cost.client_s / 2), then)

        def statement(then: Callable[[], None]) -> None:
            simulation.after(
                cost.round_trip_s,
                lambda: simulation.compute(varied(cost.server_s / 2), lambda: simulation.flush(then)),
            )

        def end() -> None:
            completed.append((simulation.now, simulation.now - started_at - provider_s))
            begin()

        def second() -> None:
            simulation.after(provider_s, lambda: client(lambda: statement(end)))

        client(lambda: statement(second))

    bookkeeping_s = cost.client_s + cost.server_s + 2 * (cost.flush_s + cost.round_trip_s)
    for caller in range(callers):
        simulation.after(caller / callers * (bookkeeping_s + cost.provider_s), begin)
    while len(completed) < binds:
        simulation.step()
    counted = completed[round(binds * WARM_UP_SHARE) :]
    cuts = quantiles((duration for _, duration in counted), n=100)
    rate = (len(counted) - 1) / (counted[-1][0] - counted[0][0])
    return Capacity(rate=rate, median_s=cuts[49], p99_s=cuts[98])
