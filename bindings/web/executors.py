"""Thread pools for calls of the service. Reads and provider calls use separate pools.

A bind may wait for as long as the provider takes; a hundred of them must not delay one lookup. Provider calls
past the limit are refused immediately instead of waiting in a queue. A read has a deadline: its thread cannot be
stopped, but the database's own time limits end its statement.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bindings.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

Params = ParamSpec("Params")
Result = TypeVar("Result")

READ_THREADS = 16  # as many as the database's pool has connections
MAX_READS = 512  # running or waiting
READ_DEADLINE_S = 10.0
THREADS_PER_PROVIDER_CALL = 2  # half of the threads may wait for another request with the same idempotency key
RETRY_AFTER_S = 2


class Executors:
    """Runs calls of the service on threads. `bind_limit` is how many provider calls may be in flight.

    For the event loop's thread only.
    """

    def __init__(self, *, bind_limit: int) -> None:
        self._max_provider_calls = bind_limit * THREADS_PER_PROVIDER_CALL
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="bindings-read")
        self._provider_threads = ThreadPoolExecutor(
            self._max_provider_calls, thread_name_prefix="bindings-provider"
        )
        self.reads_in_flight = 0
        self.provider_calls_in_flight = 0

    async def run_read(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a read of the database returns; raise `Busy` if too many wait, or if it takes too long."""
        if self.reads_in_flight >= MAX_READS:
            raise Busy("too many requests are waiting in this process", retry_after_s=RETRY_AFTER_S)
        self.reads_in_flight += 1
        try:
            running = _submit(self._read_threads, partial(function, *args, **kwargs))
            return await asyncio.wait_for(running, READ_DEADLINE_S)
        except TimeoutError:
            raise Busy("the database took too long to answer", retry_after_s=RETRY_AFTER_S) from None
        finally:
            self.reads_in_flight -= 1

    async def run_provider_call(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a bind, unbind or reconciliation returns, however long the provider takes.

        It runs to its end even if the request is cancelled. Raise `Busy` immediately past the limit.
        """
        if self.provider_calls_in_flight >= self._max_provider_calls:
            raise Busy("too many binds are in flight in this process", retry_after_s=RETRY_AFTER_S)
        self.provider_calls_in_flight += 1
        running = _submit(self._provider_threads, partial(function, *args, **kwargs))
        running.add_done_callback(self._provider_call_ended)  # also after a disconnect: the thread is still busy
        return await asyncio.shield(running)

    def _provider_call_ended(self, _: asyncio.Future[Result]) -> None:
        self.provider_calls_in_flight -= 1

    def close(self) -> None:
        """Wait for the calls that run. Call it outside of the event loop, or when no call is in flight."""
        self._provider_threads.shutdown(wait=True)
        self._read_threads.shutdown(wait=True)


def _submit(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> asyncio.Future[Result]:
    context = contextvars.copy_context()  # carries the request id for log lines
    return asyncio.get_running_loop().run_in_executor(threads, context.run, call)
