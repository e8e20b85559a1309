"""AsyncBindingService: the calls of BindingService as coroutines, on bounded threads of its own.

The simulated provider controls the order of events: it holds its answers back until the test releases them.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from bindings import aio
from bindings.aio import AsyncBindingService
from bindings.domain.binding import State
from bindings.errors import Busy, InvalidRequest, PhoneInUse, SchemaOutOfDate
from bindings.service import BindingService
from tests.forking import run_in_child
from tests.service.harness import POOL, A, B, C, D, account_settings, hold_answers, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator

BIND: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
WITHOUT_COROUTINE = {
    *("open", "from_env", "as_caller", "close"),  # open and as_caller do no I/O, close is aclose
    *("acting", "some", "tally", "restored"),  # deprecated
}


def make_service(url: str, simulator: Simulator, **settings: Any) -> AsyncBindingService:
    return AsyncBindingService.open(
        database_url=url,
        **account_settings(simulator.url),
        provider_timeout_s=60.0,
        **settings,
    )


@asynccontextmanager
async def opened(url: str, simulator: Simulator, **settings: Any) -> AsyncIterator[AsyncBindingService]:
    async with make_service(url, simulator, **settings) as service:
        yield service


def pair(number: int) -> dict[str, Any]:
    return BIND | {"phone_a": f"91880600{number:02}", "phone_b": f"91880601{number:02}"}


async def reached(condition: Any) -> None:
    """Wait on a thread, so that the event loop runs on."""
    await asyncio.to_thread(wait_for, condition)


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isroutine)
        if not name.startswith("_")
    }


def test_each_method_of_the_service_is_a_coroutine_function_with_the_same_signature() -> None:
    expected = {name: sign for name, sign in methods(BindingService).items() if name not in WITHOUT_COROUTINE}
    own = {"open", "from_env", "as_caller", "aclose", "run_read", "run_change"}
    calls = {name: sign for name, sign in methods(AsyncBindingService).items() if name not in own}
    assert {name: list(sign.parameters.values())[1:] for name, sign in calls.items()} == {
        name: list(sign.parameters.values())[1:] for name, sign in expected.items()
    }
    assert [sign.return_annotation for sign in calls.values()] == [
        expected[name].return_annotation for name in calls
    ]
    for name in calls:
        call = getattr(AsyncBindingService, name)
        assert inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call), name
        assert call.__doc__ == getattr(BindingService, name).__doc__


def test_open_takes_what_the_service_takes_except_when_to_connect() -> None:
    of_service = dict(inspect.signature(BindingService.open).parameters)
    del of_service["connect"]
    assert dict(inspect.signature(AsyncBindingService.open).parameters) == of_service
    assert inspect.signature(AsyncBindingService.as_caller).parameters == (
        inspect.signature(BindingService.as_caller).parameters
    )


def test_calls_return_and_raise_what_the_service_does(sqlite_url: str, simulator: Simulator) -> None:
    async def main() -> None:
        async with opened(sqlite_url, simulator) as service:
            binding: Binding = await service.bind(phone_a=A, phone_b=B, reference="order-1", **BIND)
            assert binding.state is State.ACTIVE
            assert await service.lookup(reference="order-1") == [binding]
            with pytest.raises(PhoneInUse):
                await service.bind(phone_a=A, phone_b=C, **BIND)
            with pytest.raises(InvalidRequest, match="expire_s"):
                await service.bind(phone_a=C, phone_b=D, **(BIND | {"expire_s": 0}))
            with pytest.raises(TypeError):
                await service.lookup(number=A)  # type: ignore[call-arg]
            other = service.as_caller(actor="checkout")
            ended: Binding = await other.unbind(binding.id, reason="trip ended")
            assert ended.state is State.UNBOUND
            assert [event.actor for event in await service.history(binding.id)][-1] == "checkout"
            assert await service.run_read(service.sync.webhooks.list) == []

    asyncio.run(main())


def test_lookups_are_answered_while_binds_wait_for_the_provider_on_every_other_thread(
    sqlite_url: str, simulator: Simulator
) -> None:
    async def main() -> None:
        async with opened(sqlite_url, simulator, bind_limit=12) as service:
            binding = await service.bind(**pair(0))
            answer = hold_answers(simulator, times=12)
            binds = [asyncio.create_task(service.bind(**pair(number))) for number in range(1, 13)]
            await reached(lambda: simulator.counts.received["bind"] == 13)
            others = [asyncio.create_task(service.run_change(answer.wait)) for _ in range(12)]
            await asyncio.sleep(0)  # each task has submitted its call
            with pytest.raises(Busy, match="too many changes"):
                await service.unbind(binding.id)
            for _ in range(30):
                assert await service.lookup(phone=binding.phone_a) == [binding]
            assert not any(task.done() for task in (*binds, *others)), "each lookup came before each bind"
            answer.set()
            assert {bind.state for bind in await asyncio.gather(*binds)} == {State.ACTIVE}
            await asyncio.gather(*others)

    asyncio.run(main())


def test_calls_run_with_the_context_of_their_task(sqlite_url: str, simulator: Simulator) -> None:
    request_id: ContextVar[str] = ContextVar("request_id", default="none")

    async def main() -> None:
        service = make_service(sqlite_url, simulator)

        async def call(name: str) -> list[str]:
            request_id.set(name)
            return [await service.run_read(request_id.get), await service.run_change(request_id.get)]

        assert [*await asyncio.gather(call("first"), call("second"))] == [["first"] * 2, ["second"] * 2]
        await service.aclose()

    asyncio.run(main())


def test_bind_that_is_cancelled_under_way_is_recorded_and_its_key_returns_it(
    sqlite_url: str, simulator: Simulator
) -> None:
    async def main() -> None:
        async with opened(sqlite_url, simulator) as service:
            answer = hold_answers(simulator)
            bind = asyncio.create_task(service.bind(**pair(0), idempotency_key="order-1"))
            await reached(lambda: simulator.counts.received.get("bind") == 1)
            bind.cancel()
            with pytest.raises(asyncio.CancelledError):
                await bind
            answer.set()
            repeated = await service.bind(**pair(0), idempotency_key="order-1")
            assert repeated.state is State.ACTIVE
            assert simulator.counts.received["bind"] == 1

    asyncio.run(main())


def test_query_that_is_cancelled_before_its_turn_is_not_run(sqlite_url: str, simulator: Simulator) -> None:
    async def main() -> None:
        service = make_service(sqlite_url, simulator)
        go_on, run = threading.Event(), list[str]()
        occupied = [asyncio.create_task(service.run_read(go_on.wait)) for _ in range(aio.READ_THREADS)]
        waiting = asyncio.create_task(service.run_read(run.append, "cancelled"))
        await asyncio.sleep(0)  # each task has submitted its call
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        await asyncio.gather(*occupied)
        await service.run_read(run.append, "last")
        await service.aclose()
        assert run == ["last"]

    asyncio.run(main())


def test_calls_past_the_places_of_a_pool_are_refused_and_a_place_is_free_again_at_their_end(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "MAX_READS", 3)

    async def main() -> None:
        service = make_service(sqlite_url, simulator, bind_limit=1)
        for run, places, name in ((service.run_read, 3, "reads"), (service.run_change, 2, "changes")):
            go_on = threading.Event()
            occupied = [asyncio.create_task(run(go_on.wait)) for _ in range(places)]
            await asyncio.sleep(0)
            with pytest.raises(Busy, match=f"too many {name} are in flight in this process"):
                await run(go_on.is_set)
            go_on.set()
            assert await asyncio.gather(*occupied) == [True] * places
            assert await run(go_on.is_set)
        await service.aclose()

    asyncio.run(main())


def test_close_waits_for_the_bind_under_way_and_refuses_every_later_call(
    sqlite_url: str, simulator: Simulator
) -> None:
    async def main() -> AsyncBindingService:
        service = make_service(sqlite_url, simulator)
        answer = hold_answers(simulator)
        bind = asyncio.create_task(service.bind(**pair(0)))
        await reached(lambda: simulator.counts.received.get("bind") == 1)
        closing = asyncio.create_task(service.aclose())
        await asyncio.sleep(0)
        for call in (service.lookup(phone=A), service.unbind("any")):
            with pytest.raises(Busy, match="the service is closed; nothing was done"):
                await call
        assert not bind.done()
        assert not closing.done()
        answer.set()
        assert (await bind).state is State.ACTIVE
        await closing
        await service.aclose()
        return service

    service = asyncio.run(main())
    with pytest.raises(Busy):
        service.sync.lookup(phone=A)


def test_service_that_cannot_be_opened_leaves_nothing_open(sqlite_folder: Path, simulator: Simulator) -> None:
    async def main() -> None:
        service = make_service(f"sqlite:///{sqlite_folder / 'empty.db'}", simulator)
        with pytest.raises(SchemaOutOfDate):
            async with service:
                pytest.fail("it was opened")
        with pytest.raises(Busy, match="closed"):
            await service.feed_end()

    asyncio.run(main())
    with pytest.raises(InvalidRequest, match="BINDINGS_BIND_LIMIT"):
        make_service("sqlite:///any.db", simulator, bind_limit=0)


def test_export_yields_every_binding_and_ends_its_read_when_it_is_left_early(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "EXPORT_BATCH", 2)

    async def main() -> None:
        async with opened(sqlite_url, simulator) as service:
            bound = [await service.bind(**pair(number)) for number in range(5)]
            assert [binding async for binding in service.export_bindings()] == bound
            async with aclosing(service.export_bindings()) as export:
                assert await anext(export) == bound[0]
                assert service.sync.runtime.database.connections_in_use() == 1
            assert service.sync.runtime.database.connections_in_use() == 0

    asyncio.run(main())


def test_export_that_is_left_while_no_query_has_a_place_is_closed(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "EXPORT_BATCH", 1)

    async def main() -> None:
        async with opened(sqlite_url, simulator) as service:
            bound = [await service.bind(**pair(number)) for number in range(2)]
            async with aclosing(service.export_bindings()) as export:
                assert await anext(export) == bound[0]
                monkeypatch.setattr(service._reads, "_limit", 0)
                with pytest.raises(Busy, match="too many reads"):
                    await service.feed_end()
            assert service.sync.runtime.database.connections_in_use() == 0

    asyncio.run(main())


def test_call_that_raises_stop_iteration_is_awaited_to_its_end(sqlite_url: str, simulator: Simulator) -> None:
    async def main() -> None:
        async with opened(sqlite_url, simulator) as service:
            for run in (service.run_read, service.run_change):
                async with asyncio.timeout(60):
                    with pytest.raises(RuntimeError, match="StopIteration"):
                        await run(next, iter(()))

    asyncio.run(main())


def test_bind_for_which_no_thread_can_be_started_is_refused_and_never_runs(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("bindings-changes"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async def scenario() -> None:
        service = make_service(sqlite_url, simulator)  # not opened yet: it has no thread
        go_on = threading.Event()
        occupied = asyncio.create_task(service.run_change(go_on.wait))
        await asyncio.sleep(0)
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(Busy, match="no thread can be started"):
            await service.bind(**pair(1))
        monkeypatch.undo()
        go_on.set()
        assert await occupied
        bound = [await service.bind(**pair(number)) for number in (2, 3)]  # behind the one that was refused
        assert [binding.state for binding in bound] == [State.ACTIVE] * 2
        assert len((await service.search()).data) == len(bound)
        await service.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_free_again", [False, True])
def test_call_that_a_thread_takes_although_no_other_could_be_started_is_awaited(*, is_free_again: bool) -> None:
    """A thread that becomes free takes what is in the queue: before the refusal, or not at all."""
    begun = threading.Event()

    class Threads(ThreadPoolExecutor):
        def submit(self, run: Any, /, *_: Any, **__: Any) -> NoReturn:
            if is_free_again:
                run()
            queued.append(run)
            raise RuntimeError("can't start new thread")

    queued: list[Any] = []
    with Threads(1) as threads:
        if is_free_again:
            assert aio.submit(threads, begun.set).result(0) is None
        else:
            with pytest.raises(Busy, match="no thread can be started"):
                aio.submit(threads, begun.set)
            queued[0]()
    assert begun.is_set() is is_free_again


def test_export_that_is_cancelled_while_a_batch_is_read_is_closed_after_that_batch(
    sqlite_url: str, simulator: Simulator
) -> None:
    entered, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def rows(_: BindingService) -> Iterator[int]:
        try:
            entered.set()
            go_on.wait(300)
            yield 1
        finally:
            closed.set()

    async def main() -> None:
        service = make_service(sqlite_url, simulator)
        first = asyncio.create_task(anext(aio._export(rows)(service)))
        await asyncio.to_thread(entered.wait, 300)
        first.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert closed.is_set()
        await service.aclose()

    asyncio.run(main())


def test_forked_child_has_threads_of_its_own(sqlite_url: str, simulator: Simulator) -> None:
    """As under gunicorn with --preload, if the parent has used the service before the fork."""

    service = make_service(sqlite_url, simulator)

    def look_up() -> list[str | None]:
        return [binding.reference for binding in asyncio.run(service.lookup(phone="9188060000"))]

    asyncio.run(service.bind(**pair(0), reference="order-1"))
    assert look_up() == ["order-1"]
    child = run_in_child(look_up)
    assert (child.value, child.message) == (["order-1"], "")
    asyncio.run(service.aclose())
