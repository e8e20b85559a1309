"""Where calls of the service run: questions and binds on threads of their own, so that they share no fate.

A bind may hang for as long as the provider does; a hundred of them must not delay one lookup. Binds past the
limit are turned away at once instead of waiting in a queue. Questions are bounded by a deadline; a thread
cannot be stopped, but the database's own time limits end its statement.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from bindings.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")

QUESTION_THREADS = 16  # as many as the database's pool has connections
QUESTIONS_WAITING = 512
QUESTION_DEADLINE_S = 10.0
BINDS_PER_SLOT = 2  # half of the threads may wait for somebody else's use of an idempotency key
RETRY_AFTER_S = 2


class Executors:
    """Runs calls of the service for handlers. `bind_limit` is how many provider calls may be in flight."""

    def __init__(self, *, bind_limit: int) -> None:
        self._most_binds = bind_limit * BINDS_PER_SLOT
        self._questions = ThreadPoolExecutor(QUESTION_THREADS, thread_name_prefix="bindings-question")
        self._binds = ThreadPoolExecutor(self._most_binds, thread_name_prefix="bindings-bind")
        self.questions_open = 0
        self.binds_open = 0

    async def run_read(self, call: Callable[[], Answer]) -> Answer:
        """Run a question; `Busy` where too many wait, or where it takes too long."""
        if self.questions_open >= QUESTIONS_WAITING:
            raise Busy("too many requests are waiting in this process", retry_after_s=RETRY_AFTER_S)
        self.questions_open += 1
        try:
            running = _submit(self._questions, call)
            return await asyncio.wait_for(running, QUESTION_DEADLINE_S)
        except TimeoutError:
            raise Busy("the database took too long to answer", retry_after_s=RETRY_AFTER_S) from None
        finally:
            self.questions_open -= 1

    async def run_provider_call(self, call: Callable[[], Answer]) -> Answer:
        """Run a bind or an unbind to its end, however long the provider takes; `Busy` at once past the limit."""
        if self.binds_open >= self._most_binds:
            raise Busy("too many binds are in flight in this process", retry_after_s=RETRY_AFTER_S)
        self.binds_open += 1
        running = _submit(self._binds, call)
        running.add_done_callback(self._ended)  # also where the caller went away: the thread is still busy
        return await asyncio.shield(running)

    def _ended(self, _: asyncio.Future[Answer]) -> None:
        self.binds_open -= 1

    def close(self) -> None:
        """Wait for what is running. Call it outside of the event loop, or when nothing is left to wait for."""
        self._binds.shutdown(wait=True)
        self._questions.shutdown(wait=True)


def _submit(threads: ThreadPoolExecutor, call: Callable[[], Answer]) -> asyncio.Future[Answer]:
    context = contextvars.copy_context()  # the request id, for log lines
    return asyncio.get_running_loop().run_in_executor(threads, context.run, call)
