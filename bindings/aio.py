"""AsyncBindingService: BindingService for applications on asyncio. The same code, on threads of its own.

Queries run on one pool of threads and every other call on another one: a slow provider delays no lookup. Both
pools are bounded, and the event loop's default executor is not used. Each call sees the context variables of its
task. No rule of the lifecycle belongs here, and no method is implemented a second time.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from functools import partial, wraps
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, TypeVar

from bindings.clock import SYSTEM_CLOCK
from bindings.domain.serialization import batches
from bindings.errors import Busy
from bindings.fork_safety import ForkSensitive, run_missed_hooks
from bindings.service import BindingService

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
    from typing import Any, Self, Unpack

    from bindings.clock import HostClock
    from bindings.settings import Settings, SettingsValues

Params = ParamSpec("Params")
Result = TypeVar("Result")

READ_THREADS = 16
MAX_READS = 1_024  # running or waiting; over HTTP one caller's share is not less than its share of long polls
THREADS_PER_BIND = 2  # half of the threads may wait for another request with the same idempotency key
RETRY_AFTER_S = 2
EXPORT_BATCH = 1_000


def _read(
    method: Callable[Concatenate[BindingService, Params], Result],
) -> Callable[Concatenate[AsyncBindingService, Params], Coroutine[Any, Any, Result]]:
    """Return a query of `BindingService` as a coroutine function."""

    @wraps(method)
    async def call(service: AsyncBindingService, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return await service.run_read(partial(method, service.sync, *args, **kwargs))

    return call


def _change(
    method: Callable[Concatenate[BindingService, Params], Result],
) -> Callable[Concatenate[AsyncBindingService, Params], Coroutine[Any, Any, Result]]:
    """Return any other method of `BindingService` as a coroutine function."""

    @wraps(method)
    async def call(service: AsyncBindingService, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return await service.run_change(partial(method, service.sync, *args, **kwargs))

    return call


def _export(
    method: Callable[Concatenate[BindingService, Params], Iterator[Result]],
) -> Callable[Concatenate[AsyncBindingService, Params], AsyncGenerator[Result, None]]:
    """Return an export of `BindingService` as an asynchronous generator."""

    @wraps(method)
    async def export(
        service: AsyncBindingService, /, *args: Params.args, **kwargs: Params.kwargs
    ) -> AsyncGenerator[Result, None]:
        rows = batches(method(service.sync, *args, **kwargs), EXPORT_BATCH)
        one_thread = threading.Lock()  # a cancelled task leaves the thread that reads its batch

        def read_batch() -> list[Result]:
            with one_thread:
                return next(rows, [])

        def close() -> None:
            with one_thread:
                rows.close()

        try:
            while batch := await service.run_read(read_batch):
                for row in batch:
                    yield row
        finally:
            with suppress(Busy):  # the service is closed, and its connections with it
                # A refusal would leave the read open.
                await service._reads.run(close, limited=False)  # noqa: SLF001 -- of this module

    return export


def in_context(call: Callable[[], Result]) -> Callable[[], Result]:
    """Return the call for another thread, with the context of this task.

    No future takes a `StopIteration`: the task would wait without end. It becomes a `RuntimeError`.
    """
    return partial(contextvars.copy_context().run, _without_stop_iteration, call)


def submit(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> Future[Result]:
    """Return the future of a call on a thread. If no thread can be started, raise `Busy`: it never runs.

    The executor itself would keep such a call in its queue, and run it on the next thread that it can start.
    """
    future: Future[Result] = Future()
    try:
        threads.submit(_Submission(call, future).run)
    except RuntimeError as error:
        if future.cancel():  # else a thread that has become free runs it already
            raise no_thread(error) from error
    return future


def no_thread(error: RuntimeError) -> Busy:
    """Return the error of a call for which no thread can be started, by a limit or because the process ends."""
    return Busy(
        f"no thread can be started for this call ({error}); nothing was done",
        retry_after_s=RETRY_AFTER_S,
        todo="if the process is not ending, raise its limit of threads, such as pids_limit of a container",
    )


class _Submission(Generic[Result]):
    """A call that runs at most once, and not at all once its future is cancelled."""

    __slots__ = ("_call", "_future")

    def __init__(self, call: Callable[[], Result], future: Future[Result]) -> None:
        self._call = call
        self._future = future

    def run(self) -> None:
        """Run the call in this thread, and give its result or its exception to the future.

        The exception has this frame, and that of the executor, which has this object: neither keeps the future.
        """
        future = self._future
        del self._future
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(self._call())
            except BaseException as error:  # noqa: BLE001 -- it is raised where the result is awaited
                future.set_exception(error)
        del future


def _without_stop_iteration(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("a call on another thread raised StopIteration") from error


class AsyncBindingService:
    """The methods of `BindingService` as coroutines, with the same arguments, results and errors.

    Open it with `async with AsyncBindingService.from_env() as service`, one per process; it may be opened before a
    fork. `AsyncBindingService(service)` takes over an open `BindingService`. More calls than a pool has places for
    are `Busy` immediately.

    A call that is cancelled (also by `asyncio.timeout`) before its thread has begun does nothing. One that has
    begun runs to its end there: a bind that is sent is recorded, and its idempotency key returns it.
    """

    def __init__(self, service: BindingService) -> None:
        changes = service.settings.bind_limit * THREADS_PER_BIND
        self.sync = service
        self._reads = _Threads("reads", READ_THREADS, limit=MAX_READS)
        self._changes = _Threads("changes", changes, limit=changes)

    @classmethod
    def from_env(cls) -> Self:
        """Make one with the settings of the environment; it connects at `async with`, or at its first call."""
        return cls.open()

    @classmethod
    def open(
        cls,
        *,
        actor: str = "library",
        environment: Mapping[str, str] | None = None,
        clock: HostClock = SYSTEM_CLOCK,
        **settings: Unpack[SettingsValues],
    ) -> Self:
        """Make one as `BindingService.open` does; it connects at `async with`, or at its first call.

        Reads the environment and the files that the settings name. Raises `InvalidRequest` for a wrong setting.
        """
        return cls(
            BindingService.open(actor=actor, environment=environment, clock=clock, connect=False, **settings)
        )

    def as_caller(
        self, *, actor: str | None = None, request_id: str | None = None, key_id: str | None = None
    ) -> Self:
        """Return a service that acts for another actor or request; it shares threads, connections and limits."""
        other = copy(self)
        other.sync = self.sync.as_caller(actor=actor, request_id=request_id, key_id=key_id)
        return other

    @property
    def settings(self) -> Settings:
        """Return the settings that the service was opened with."""
        return self.sync.settings

    async def run_read(
        self, query: Callable[Params, Result], /, *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what a query returns, run on the threads for queries: `run_read(service.sync.webhooks.list)`."""
        return await self._reads.run(partial(query, *args, **kwargs))

    async def run_change(
        self, call: Callable[Params, Result], /, *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Return what any other call returns, run on the threads for changes and calls of the provider."""
        return await self._changes.run(partial(call, *args, **kwargs))

    async def aclose(self) -> None:
        """Refuse new calls (`Busy`), wait for those that were accepted, and close every connection.

        Safe to repeat. A bind takes no longer than BINDINGS_PROVIDER_TIMEOUT_S and the database's time limits. If
        this is cancelled, the rest happens in the background.
        """
        self._reads.refuse()
        self._changes.refuse()
        closer = ThreadPoolExecutor(1, thread_name_prefix="bindings-close")
        closing = closer.submit(self._close)
        closer.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closing))

    def _close(self) -> None:
        self._reads.wait()
        self._changes.wait()
        self.sync.close()

    async def __aenter__(self) -> Self:
        """Connect to the database and check it. Raises as `BindingService.open` does; nothing stays open then."""
        try:
            await self.run_change(self.sync.runtime.database.run_deferred_check)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # Changes, and calls of the provider.
    bind = _change(BindingService.bind)
    bind_request = _change(BindingService.bind_request)
    extend = _change(BindingService.extend)
    replace = _change(BindingService.replace)
    replace_request = _change(BindingService.replace_request)
    unbind = _change(BindingService.unbind)
    unbind_all = _change(BindingService.unbind_all)
    mark_absent = _change(BindingService.mark_absent)
    reveal = _change(BindingService.reveal)
    mark_restored = _change(BindingService.mark_restored)

    # Queries.
    get = _read(BindingService.get)
    get_many = _read(BindingService.get_many)
    history = _read(BindingService.history)
    lookup = _read(BindingService.lookup)
    holds = _read(BindingService.holds)
    check = _read(BindingService.check)
    trace = _read(BindingService.trace)
    search = _read(BindingService.search)
    search_refusals = _read(BindingService.search_refusals)
    traceparents = _read(BindingService.traceparents)
    events = _read(BindingService.events)
    events_for_actor = _read(BindingService.events_for_actor)
    feed_end = _read(BindingService.feed_end)
    doubts = _read(BindingService.doubts)
    open_doubts = _read(BindingService.open_doubts)
    pools = _read(BindingService.pools)
    report = _read(BindingService.report)
    reports = _read(BindingService.reports)
    stats = _read(BindingService.stats)
    last_seal = _read(BindingService.last_seal)
    export_bindings = _export(BindingService.export_bindings)
    export_events = _export(BindingService.export_events)
    export_sealed_events = _export(BindingService.export_sealed_events)
    export_seals = _export(BindingService.export_seals)

    # Jobs.
    expire_due = _change(BindingService.expire_due)
    warn_due = _change(BindingService.warn_due)
    recover = _change(BindingService.recover)
    reconcile = _change(BindingService.reconcile)
    count_pools = _change(BindingService.count_pools)
    apply_retention = _change(BindingService.apply_retention)
    update_statistics = _change(BindingService.update_statistics)
    seal_events = _change(BindingService.seal_events)


class _Threads(ForkSensitive):
    """A pool of threads that refuses calls past `limit`, running and waiting.

    Thread-safe: several event loops may use one. A forked child has threads of its own.
    """

    def __init__(self, name: str, count: int, *, limit: int) -> None:
        self._name = name
        self._count = count
        self._limit = limit
        self._refuses = False
        self._open()
        self.watch_forks()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self._executor = ThreadPoolExecutor(self._count, thread_name_prefix=f"bindings-{self._name}")

    def after_fork_in_child(self) -> None:
        """Leave the threads, and the calls on them, to the parent."""
        self._open()

    async def run(self, call: Callable[[], Result], *, limited: bool = True) -> Result:
        """Return what `call` returns, run with the context of this task.

        Raises `Busy` past the limit, unless the call is not `limited`, when the pool is closed, and if no thread
        can be started.
        """
        run_missed_hooks()
        with self._lock:
            if self._refuses:
                raise Busy("the service is closed; nothing was done", todo="open another one")
            if limited and self._in_flight >= self._limit:
                raise Busy(f"too many {self._name} are in flight in this process", retry_after_s=RETRY_AFTER_S)
            running = submit(self._executor, in_context(call))
            self._in_flight += 1
        running.add_done_callback(self._end)
        return await asyncio.wrap_future(running)

    def refuse(self) -> None:
        """Refuse every call from now on."""
        with self._lock:
            self._refuses = True

    def wait(self) -> None:
        """Wait for the calls that were accepted, and end the threads. Call it outside of the event loop."""
        self._executor.shutdown(wait=True)

    def _end(self, _: object) -> None:
        with self._lock:
            self._in_flight -= 1
