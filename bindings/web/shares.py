"""Shares of a limit: no caller takes what belongs to all. For the event loop's thread only.

The rule is that of dynamic thresholds: a caller may hold at most `HELD_PER_FREE` times as many places as remain
free. One caller alone gets seven eighths, two that want all get a little less than half each, and a caller gets a
second place only if another one stays free, no matter how many want more. A fixed part for each caller would leave
most places unused if there are few callers, and none free if there are many.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from bindings.errors import Busy
from bindings.web.problems import ConcurrencyLimited

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

HELD_PER_FREE = 7
RETRY_AFTER_S = 2


class Shares:
    """The places under one limit, by caller. `name` says in the plural what a place is for: a label of a metric.

    `reserve` places beyond the limit are for callers that hold none.
    """

    def __init__(self, name: str, limit: int, *, reserve: int = 0) -> None:
        self._name = name
        self._limit = limit
        self._reserve = reserve
        self._held: dict[str, int] = {}
        self.in_use = 0

    def take(self, caller: str) -> None:
        """Take a place; raise `ConcurrencyLimited` past the caller's share, `Busy` if no place is free."""
        if self.has_place(caller):
            self.add(caller)
            return
        held = self._held.get(caller, 0)
        if held == 0:
            raise Busy(f"too many {self._name} are in flight in this process", retry_after_s=RETRY_AFTER_S)
        raise ConcurrencyLimited(self._name, held=held, limit=self._limit, retry_after_s=RETRY_AFTER_S)

    def has_place(self, caller: str) -> bool:
        """Return whether a place is free and within the caller's share."""
        held, free_afterwards = self._held.get(caller, 0), self._limit - self.in_use - 1
        if held == 0:
            return free_afterwards + self._reserve >= 0
        return held + 1 <= HELD_PER_FREE * free_afterwards

    def add(self, caller: str) -> None:
        """Count a place that `has_place` has allowed."""
        self._held[caller] = self._held.get(caller, 0) + 1
        self.in_use += 1

    def give_back(self, caller: str) -> None:
        """Give back one place."""
        self.in_use -= 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]


class FairThreads:
    """Threads that serve callers in turn: a caller runs on its share of them, and waits with what exceeds it."""

    def __init__(self, count: int, *, thread_name: str) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=thread_name)
        self._shares = Shares("threads", count)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the caller whose turn it is first

    async def run(self, caller: str, call: Callable[[], Result]) -> Result:
        """Return what `call` returns. A call that has begun runs to its end even if this is cancelled."""
        await self._wait_for_turn(caller)
        running = submit(self._threads, call)
        running.add_done_callback(lambda _: self._end(caller))  # the thread is busy until then
        return await asyncio.shield(running)

    def close(self) -> None:
        """Wait for the calls that run."""
        self._threads.shutdown(wait=True)

    async def _wait_for_turn(self, caller: str) -> None:
        if self._shares.has_place(caller):
            self._shares.add(caller)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn came at the same moment
                self._end(caller)
            raise

    def _end(self, caller: str) -> None:
        self._shares.give_back(caller)
        for waiting in list(self._waiting):
            turns = self._waiting[waiting]
            while turns and turns[0].done():  # cancelled
                turns.popleft()
            if turns and not self._shares.has_place(waiting):
                continue  # its turn stays the next one
            del self._waiting[waiting]
            if turns:
                self._shares.add(waiting)
                turns.popleft().set_result(None)
                self._waiting[waiting] = turns  # behind the others


def submit(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run a call on a thread, with the context of this task: it carries the request id for log lines."""
    return asyncio.get_running_loop().run_in_executor(threads, contextvars.copy_context().run, call)
