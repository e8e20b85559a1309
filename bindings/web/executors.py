"""Thread pools for calls of the service. Reads and provider calls use separate pools.

A read is a call that waits for the database only; it may also write a few rows, such as the record of a reveal.
A bind may wait for as long as the provider takes; a hundred of them must not delay one lookup. Provider calls
past the limit are refused immediately instead of waiting in a queue. A read has a deadline: its thread cannot be
stopped, but the database's own time limits end its statement. No caller (the actor of its key) takes more than its
share of either. Readiness has threads of its own, so that probes are answered while all others are in use.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bindings.aio import MAX_READS, READ_THREADS, THREADS_PER_BIND, in_context, submit
from bindings.errors import Busy
from bindings.web.shares import RETRY_AFTER_S, FairThreads, Shares

if TYPE_CHECKING:
    from collections.abc import Callable

Params = ParamSpec("Params")
Result = TypeVar("Result")

READ_DEADLINE_S = 10.0
PROBE_THREADS = 2
UNAUTHENTICATED = ""  # the caller of a read before its key is known


class Executors:
    """Runs calls of the service on threads. `bind_limit` is how many provider calls may be in flight.

    For the event loop's thread only.
    """

    def __init__(self, *, bind_limit: int) -> None:
        max_provider_calls = bind_limit * THREADS_PER_BIND
        # The library itself limits the calls that are sent. A caller that has none may still repeat a used key.
        self._binds = Shares("binds", bind_limit, reserve=max_provider_calls - bind_limit)
        self._provider_calls = Shares("provider calls", max_provider_calls)
        self._reads = Shares("reads", MAX_READS)
        self._read_threads = FairThreads(READ_THREADS, thread_name="bindings-read")
        self._probe_threads = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="bindings-probe")
        self._provider_threads = ThreadPoolExecutor(max_provider_calls, thread_name_prefix="bindings-provider")

    @property
    def reads_in_flight(self) -> int:
        """Return how many reads run or wait."""
        return self._reads.in_use

    @property
    def provider_calls_in_flight(self) -> int:
        """Return how many binds, unbinds and reconciliations run."""
        return self._provider_calls.in_use

    async def run_read(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a read returns that is made for no known caller; all of these are one caller's."""
        return await self.run_read_for(UNAUTHENTICATED, function, *args, **kwargs)

    async def run_read_for(
        self, caller: str, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a read of the database returns.

        Raises `ConcurrencyLimited` past the caller's share, and `Busy` if too many wait, or if it takes too long.
        """
        self._reads.take(caller)
        running: asyncio.Future[Result] | None = None
        timer = None
        try:
            running = self._read_threads.run(caller, partial(function, *args, **kwargs))
            timer = running.get_loop().call_later(READ_DEADLINE_S, _give_up, running)
            return await running
        finally:
            if timer is not None:
                timer.cancel()
            self._reads.give_back(caller)
            del running  # its exception has this frame

    async def run_export_batch(self, caller: str, function: Callable[[], Result]) -> Result:
        """Return what the read of a batch of an export returns. It waits for the caller's turn on the threads.

        It takes no place and has no deadline: a refusal would cut off a file of which a part was sent. An export
        has one call in flight at most.
        """
        return await self._read_threads.run(caller, function)

    async def run_probe(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a read for a probe returns, however many callers wait; `Busy` if it takes too long."""
        running = _submit(self._probe_threads, partial(function, *args, **kwargs))
        try:
            return await asyncio.wait_for(running, READ_DEADLINE_S)
        except TimeoutError:
            raise _slow_database() from None

    async def run_bind(
        self, caller: str, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a bind returns, as `run_provider_call` does; a caller also has a share of the binds only."""
        self._binds.take(caller)
        try:
            running = self._start_provider_call(caller, partial(function, *args, **kwargs))
        except BaseException:
            self._binds.give_back(caller)
            raise
        running.add_done_callback(lambda _: self._binds.give_back(caller))
        return await asyncio.shield(running)

    async def run_provider_call(
        self, caller: str, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what an unbind or reconciliation returns, however long the provider takes.

        It runs to its end even if the request is cancelled. Raises `ConcurrencyLimited` immediately past the
        caller's share, and `Busy` past the limit.
        """
        return await asyncio.shield(self._start_provider_call(caller, partial(function, *args, **kwargs)))

    def _start_provider_call(self, caller: str, call: Callable[[], Result]) -> asyncio.Future[Result]:
        self._provider_calls.take(caller)
        try:
            running = _submit(self._provider_threads, call)
        except BaseException:
            self._provider_calls.give_back(caller)
            raise
        # Also after a disconnect: the thread is still busy.
        running.add_done_callback(lambda _: self._provider_calls.give_back(caller))
        return running

    def close(self) -> None:
        """Wait for the calls that run. Call it outside of the event loop, or when no call is in flight."""
        self._provider_threads.shutdown(wait=True)
        self._read_threads.close()
        self._probe_threads.shutdown(wait=True)


def _submit(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run a call on a thread, with the context of this task, for log lines; raises as `aio.submit` does."""
    return asyncio.wrap_future(submit(threads, in_context(call)))


def _give_up(running: asyncio.Future[Any]) -> None:
    """End the wait for a read; its thread goes on."""
    if not running.done():
        running.set_exception(_slow_database())


def _slow_database() -> Busy:
    return Busy("the database took too long to answer", retry_after_s=RETRY_AFTER_S)
