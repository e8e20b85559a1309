"""Long polling of the change feed: one task reads the end of the feed for all requests that wait.

While at least one request waits, the end of the feed is read five times a second; otherwise it is not read at all.
A request that is woken reads the events itself: that query alone decides which events are final.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from bindings.errors import BindingsError
from bindings.web.shares import Shares

if TYPE_CHECKING:
    from bindings.service import BindingService
    from bindings.web.executors import Executors

READ_EVERY_S = 0.2
MAX_WAITING = 1_000


class FeedNotifier:
    """Wakes all long-poll requests when there are new events or the server shuts down."""

    def __init__(self, service: BindingService, executors: Executors) -> None:
        self._service = service
        self._executors = executors
        self._changed = asyncio.Condition()
        self._places = Shares("long polls", MAX_WAITING)
        self._end: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.stopping = False

    @property
    def waiting(self) -> int:
        """Return how many requests wait."""
        return self._places.in_use

    async def wait(self, caller: str, after: str, seconds: float) -> None:
        """Return when there are events after the cursor, after `seconds`, or at shutdown.

        Raises `ConcurrencyLimited` if the caller's share of the requests waits, `Busy` if too many wait.
        """
        self._places.take(caller)
        try:
            if self._watcher is None or self._watcher.done():
                self._end = None
                self._watcher = asyncio.create_task(self._watch())
            async with self._changed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait_for(lambda: self._has_news(after)), seconds)
        finally:
            self._places.give_back(caller)

    async def stop(self) -> None:
        """Wake all waiting requests; called at shutdown."""
        self.stopping = True
        await self._notify_all()

    def _has_news(self, after: str) -> bool:
        return self.stopping or (self._end is not None and _position(self._end) > _position(after))

    async def _watch(self) -> None:
        while self._places.in_use and not self.stopping:
            with suppress(BindingsError):  # the database is not reachable: try again
                self._end = await self._executors.run_probe(self._service.feed_end)
                await self._notify_all()
            await asyncio.sleep(READ_EVERY_S)

    async def _notify_all(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _position(cursor: str) -> tuple[int, ...]:
    return tuple(map(int, cursor.split("-")))
