"""Shares of a limit: no caller takes what belongs to all. For the event loop's thread only.

The rule is that of dynamic thresholds: a caller may hold at most `HELD_PER_FREE` times as many places as remain
free. One caller alone gets seven eighths, two that want all get a little less than half each, and a caller gets a
second place only if another one stays free, no matter how many want more. A fixed part for each caller would leave
most places unused if there are few callers, and none free if there are many.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from bindings.aio import in_context, no_thread
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
    """Threads that serve callers in turn: a caller runs on its share of them, and waits with what exceeds it.

    A thread is started when a call finds none that is free, and stays until `close`. They are not those of
    `concurrent.futures`: handing a call over to these and its result back takes a third of the time.
    """

    def __init__(self, count: int, *, thread_name: str) -> None:
        self._shares = Shares("threads", count)
        self._waiting: dict[str, deque[_Call]] = {}  # the caller whose turn it is first
        self._thread_name = thread_name
        self._threads: list[threading.Thread] = []
        self._begun: SimpleQueue[_Call | None] = SimpleQueue()

    def run(self, caller: str, call: Callable[[], Result]) -> asyncio.Future[Result]:
        """Return the future of what `call` returns. A call that has begun runs to its end even if it is cancelled.

        The call has the context of this task: it carries the request id for log lines.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        queued = _Call(caller, in_context(call), result, self._end)
        if self._shares.has_place(caller):
            self._begin(queued)
        else:
            self._waiting.setdefault(caller, deque()).append(queued)
        return result

    def close(self) -> None:
        """Wait for the calls that run."""
        for _ in self._threads:
            self._begun.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _begin(self, call: _Call) -> None:
        if self._shares.in_use >= len(self._threads):
            self._start_thread()
        self._shares.add(call.caller)
        self._begun.put(call)

    def _start_thread(self) -> None:
        """Start one more thread. If the system allows none, those that run take the call; `Busy` without any."""
        name = f"{self._thread_name}_{len(self._threads)}"
        thread = threading.Thread(target=_work, args=(self._begun,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise no_thread(error) from error
        else:
            self._threads.append(thread)

    def _end(self, caller: str) -> None:
        self._shares.give_back(caller)
        for waiting in list(self._waiting):
            calls = self._waiting[waiting]
            while calls and calls[0].result.done():  # cancelled
                calls.popleft()
            if calls and not self._shares.has_place(waiting):
                continue  # its turn stays the next one
            del self._waiting[waiting]
            if calls:
                self._begin(calls.popleft())
                self._waiting[waiting] = calls  # behind the others


class _Call:
    """A call on its way to a thread and back; `end` is called in the event loop when the thread is free again."""

    __slots__ = ("_call", "_end", "_loop", "caller", "result")

    def __init__(
        self, caller: str, call: Callable[[], Any], result: asyncio.Future[Any], end: Callable[[str], None]
    ) -> None:
        self.caller = caller
        self.result = result
        self._call = call
        self._end = end
        self._loop = result.get_loop()

    def run(self) -> None:
        """Run the call in this thread, and give its result or its exception to the event loop."""
        try:
            deliver = partial(self._deliver, self._call(), None)
        except BaseException as error:  # noqa: BLE001 -- it is raised where the result is awaited
            deliver = partial(self._deliver, None, error)
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(deliver)
        del self, deliver  # the exception has this frame

    def _deliver(self, value: Any, error: BaseException | None) -> None:
        self._end(self.caller)
        if self.result.done():  # cancelled
            return
        if error is None:
            self.result.set_result(value)
        else:
            self.result.set_exception(error)


def _work(begun: SimpleQueue[_Call | None]) -> None:
    """Run the calls of a queue until there is None; keep no reference to one that has ended."""
    while (call := begun.get()) is not None:
        call.run()
        del call
