"""Shares of the limits of a process: no caller takes what belongs to all."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from bindings.aio import READ_THREADS
from bindings.errors import Busy
from bindings.service import BindingService
from bindings.web.executors import Executors
from bindings.web.long_poll import MAX_WAITING, FeedNotifier
from bindings.web.problems import ConcurrencyLimited
from bindings.web.shares import FairThreads, Shares
from tests.service.harness import A, B, C, D, E, F, hold_answers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from bindings.provider.simulator import Simulator
    from tests.web.conftest import Running

SHARE_OF_32 = 28


def take_all(shares: Shares, *callers: str) -> dict[str, int]:
    """Take places for the callers in turn until each is refused; return how many each got."""
    held = dict.fromkeys(callers, 0)
    greedy = list(callers)
    while greedy:
        for caller in list(greedy):
            try:
                shares.take(caller)
            except (ConcurrencyLimited, Busy):
                greedy.remove(caller)
            else:
                held[caller] += 1
    return held


@pytest.mark.parametrize(
    ("limit", "alone"), [(1, 1), (2, 1), (3, 2), (8, 7), (16, 14), (32, SHARE_OF_32), (1_000, 875)]
)
def test_one_caller_gets_at_most_seven_eighths(limit: int, alone: int) -> None:
    assert take_all(Shares("places", limit), "greedy") == {"greedy": alone}


@pytest.mark.parametrize("greedy", [1, 2, 3, 5, 10, 20, 31])
def test_callers_that_want_all_leave_a_place_for_a_caller_that_has_none(greedy: int) -> None:
    shares = Shares("places", 32)
    held = take_all(shares, *(f"greedy {number}" for number in range(greedy)))
    assert max(held.values()) - min(held.values()) <= 1
    shares.take("modest")


def test_place_that_is_given_back_is_taken_again() -> None:
    shares = Shares("places", 8)
    for _ in range(3):
        assert take_all(shares, "greedy") == {"greedy": 7}
        with pytest.raises(ConcurrencyLimited, match="7 places in flight in this process, its share of the limit"):
            shares.take("greedy")
        for _ in range(7):
            shares.give_back("greedy")
    assert shares.in_use == 0


def test_caller_without_a_place_is_busy_if_none_is_free() -> None:
    shares = Shares("places", 2, reserve=1)
    for caller in ("one", "two", "three"):
        shares.take(caller)
    with pytest.raises(Busy, match="too many places are in flight"):
        shares.take("four")


def test_threads_serve_callers_in_turn_and_never_wait_for_one_caller() -> None:
    """One caller queues more than all threads can do; another runs at once, and then each in turn."""
    release, order = threading.Event(), list[str]()

    def block(name: str) -> None:
        order.append(name)
        assert release.wait(300)

    async def scenario() -> None:
        threads = FairThreads(4, thread_name="test")
        greedy = [threads.run("one", lambda: block("one")) for _ in range(20)]
        await until(lambda: len(order) == 3)
        modest = [threads.run("two", lambda: block("two")) for _ in range(3)]
        await until(lambda: "two" in order)
        assert order == ["one"] * 3 + ["two"]
        assert len(threads._waiting["one"]) == 17
        release.set()
        await asyncio.gather(*greedy, *modest)
        assert order.index("two", 4) < 12, "not behind the seventeen that waited before it"
        assert (threads._waiting, threads._shares.in_use) == ({}, 0)
        threads.close()

    asyncio.run(scenario())


def test_call_that_is_given_up_while_it_waits_or_runs_keeps_no_thread() -> None:
    release = threading.Event()
    begun = list[int]()

    def block() -> None:
        begun.append(1)
        assert release.wait(300)

    async def scenario() -> None:
        threads = FairThreads(2, thread_name="test")
        tasks = [threads.run("one", block) for _ in range(5)]
        await until(lambda: bool(begun))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert threads._shares.in_use == 1, "the thread is still busy"
        release.set()
        await until(lambda: threads._shares.in_use == 0)
        assert await threads.run("one", lambda: 7) == 7
        assert len(begun) == 1
        threads.close()

    asyncio.run(scenario())


def test_exception_of_a_call_is_raised_where_its_result_is_awaited() -> None:
    async def scenario() -> None:
        threads = FairThreads(2, thread_name="test")
        with pytest.raises(ZeroDivisionError):
            await threads.run("one", lambda: 1 // 0)
        assert await threads.run("one", lambda: 7) == 7
        assert threads._shares.in_use == 0
        threads.close()

    asyncio.run(scenario())


def raise_stop_iteration() -> None:
    raise StopIteration


def test_call_that_raises_stop_iteration_is_awaited_to_its_end() -> None:
    async def scenario() -> None:
        with closing(Executors(bind_limit=1)) as executors:
            for call in (
                executors.run_read(raise_stop_iteration),
                executors.run_probe(raise_stop_iteration),
                executors.run_bind("one", raise_stop_iteration),
                executors.run_provider_call("one", raise_stop_iteration),
            ):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await asyncio.wait_for(call, 60)
            assert executors.reads_in_flight == executors.provider_calls_in_flight == 0

    asyncio.run(scenario())


def test_threads_are_as_many_as_calls_ran_at_a_time_and_end_with_close() -> None:
    async def scenario() -> None:
        threads = FairThreads(16, thread_name="counted")
        for _ in range(5):
            await threads.run("one", lambda: 7)
        assert len(threads._threads) == 1
        release = threading.Event()
        running = [threads.run("one", lambda: release.wait(300)) for _ in range(3)]
        assert len(threads._threads) == 3
        release.set()
        await asyncio.gather(*running)
        threads.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("counted")]

    asyncio.run(scenario())


def test_thread_that_cannot_be_started_takes_no_place_and_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    release, start = threading.Event(), threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("limited"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async def scenario() -> None:
        threads = FairThreads(16, thread_name="limited")
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(Busy, match="no thread can be started"):
            threads.run("one", lambda: 7)
        monkeypatch.undo()
        running = [threads.run("one", lambda: release.wait(300))]
        monkeypatch.setattr(threading.Thread, "start", fail)
        running += [threads.run("one", lambda: release.wait(300)) for _ in range(3)]
        release.set()
        assert await asyncio.gather(*running) == [True] * 4
        monkeypatch.undo()
        assert (threads._shares.in_use, len(threads._threads)) == (0, 1)
        threads.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["run_bind", "run_provider_call", "run_probe", "run_read"])
def test_call_for_which_no_thread_can_be_started_is_busy_and_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    calls: list[int] = []

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        executors = Executors(bind_limit=1)
        run = partial(getattr(executors, call), *["one"] * (call in ("run_bind", "run_provider_call")))
        monkeypatch.setattr(threading.Thread, "start", fail)
        for number in range(3):
            with pytest.raises(Busy, match="no thread can be started"):
                await run(partial(calls.append, number))
        monkeypatch.undo()
        await run(partial(calls.append, 3))
        assert (calls, executors.provider_calls_in_flight, executors.reads_in_flight) == ([3], 0, 0)
        executors.close()

    asyncio.run(scenario())


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 -- what it waits for happens on threads
        await asyncio.sleep(0.001)


def test_a_thousand_long_polls_of_one_key_leave_places_for_another(running: Running) -> None:
    notifier = FeedNotifier(running.service, running.app_state.executors)

    async def scenario() -> None:
        after = "0-0" if running.service.feed_end() != "0-0" else "9-9"
        notifier._watch = asyncio.Event().wait  # type: ignore[assignment,method-assign]  # no news comes
        polls = [asyncio.create_task(notifier.wait("key:one", after, 300)) for _ in range(1_000)]
        await until(lambda: sum(poll.done() for poll in polls) == 1_000 - MAX_WAITING * 7 // 8)
        assert {type(poll.exception()) for poll in polls if poll.done()} == {ConcurrencyLimited}
        other = asyncio.create_task(notifier.wait("key:two", after, 300))
        await until(lambda: notifier.waiting == 876)
        assert not other.done()
        await notifier.stop()
        await other
        await asyncio.gather(*polls, return_exceptions=True)
        assert notifier.waiting == 0
        if notifier._watcher is not None:
            notifier._watcher.cancel()

    asyncio.run(scenario())


# Over HTTP.


@contextmanager
def set_at_end(event: threading.Event) -> Iterator[None]:
    """Set the event also if the test fails: threads wait for it."""
    try:
        yield
    finally:
        event.set()


def refusals(running: Running, limit: str) -> float:
    return (
        running.app_state.metrics.registry.get_sample_value("bindings_concurrency_limited_total", {"limit": limit})
        or 0.0
    )


def assert_limited(answer: requests.Response, limit: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "concurrency-limited")
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["safe_to_retry"]
    assert not answer.json()["may_have_acted"]
    assert limit in answer.json()["detail"]


def test_hanging_binds_of_one_key_delay_neither_binds_nor_lookups_of_another(
    running: Running, simulator: Simulator
) -> None:
    """The provider is slow: one key holds as many binds as it can."""
    assert running.service.settings.bind_limit == 32
    one, two = running.key("app", "one"), running.key("app", "two")
    answers = hold_answers(simulator, times=SHARE_OF_32)
    with ThreadPoolExecutor(SHARE_OF_32) as hanging, set_at_end(answers):
        calls = [
            hanging.submit(running.bind, one, phone_a=f"91880{number:04}1", phone_b=f"91880{number:04}2")
            for number in range(SHARE_OF_32)
        ]
        wait_for(lambda: simulator.counts.received.get("bind", 0) == SHARE_OF_32)
        assert_limited(running.bind(one), "28 binds in flight in this process, its share of the limit of 32")
        assert refusals(running, "binds") == 1
        created = running.bind(two)
        assert created.status_code == 201
        assert running.post("/v1/lookup", {"phone": A}, one).status_code == 200
        assert running.post(f"/v1/bindings/{created.json()['id']}/unbind", {}, two).status_code == 200
        assert not any(call.done() for call in calls), "all of this happened while they hung"
        answers.set()
        assert [call.result(300).status_code for call in calls] == [201] * SHARE_OF_32
    assert running.bind(one).status_code == 201


def test_key_whose_binds_hang_may_still_unbind(running: Running, simulator: Simulator) -> None:
    one = running.key("app", "one")
    created = running.bind(one).json()
    answers = hold_answers(simulator, times=SHARE_OF_32)
    with ThreadPoolExecutor(SHARE_OF_32) as hanging, set_at_end(answers):
        for number in range(SHARE_OF_32):
            hanging.submit(running.bind, one, phone_a=f"91880{number:04}1", phone_b=f"91880{number:04}2")
        wait_for(lambda: simulator.counts.received.get("bind", 0) == SHARE_OF_32 + 1)
        ended = running.post(f"/v1/bindings/{created['id']}/unbind", {}, one)
        assert (ended.status_code, ended.json()["state"]) == (200, "unbound")


def test_slow_reads_of_one_key_delay_neither_those_of_another_nor_probes(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = running.key("app", "one"), running.key("app", "two")
    search, end, begun = BindingService.search, threading.Event(), list[int]()

    def slow_search(service: BindingService, **filters: Any) -> Any:
        if service.runtime.caller.actor == "key:one":
            begun.append(1)
            assert end.wait(300)
        return search(service, **filters)

    monkeypatch.setattr(BindingService, "search", slow_search)
    count = 2 * READ_THREADS
    with ThreadPoolExecutor(count) as slow, set_at_end(end):
        calls = [slow.submit(running.get, "/v1/bindings", one) for _ in range(count)]
        wait_for(lambda: running.app_state.executors.reads_in_flight == count)
        wait_for(lambda: len(begun) == READ_THREADS * 7 // 8)
        assert running.get("/v1/bindings", two).status_code == 200
        running.app_state.readiness = (float("-inf"), ())
        assert running.get("/readyz").json().keys() >= {"checks"}, "answered: ready or not ready, with reasons"
        assert running.get("/livez").status_code == 200
        assert len(begun) == READ_THREADS * 7 // 8
        end.set()
        assert {call.result(300).status_code for call in calls} == {200}


def test_long_polls_of_one_key_do_not_keep_another_from_its_feed(running: Running) -> None:
    one, two = running.key("app", "one"), running.key("app", "two")
    running.app_state.notifier._places = Shares("long polls", 8)
    after = running.service.feed_end()
    poll = {"after": after, "wait_s": 30}
    with ThreadPoolExecutor(8) as polls:
        waiting = [polls.submit(running.get, "/v1/events", one, params=poll) for _ in range(7)]
        wait_for(lambda: running.app_state.notifier.waiting == 7)
        assert_limited(running.get("/v1/events", one, params=poll), "7 long polls in flight")
        assert refusals(running, "long polls") == 1
        feed = polls.submit(running.get, "/v1/events", two, params=poll)
        wait_for(lambda: running.app_state.notifier.waiting == 8)
        created = running.bind(two, phone_a=C, phone_b=D).json()
        events = feed.result(300).json()["data"]
        while not events:  # a transaction in another database of the server may delay the feed
            events = running.get("/v1/events", two, params=poll).json()["data"]
        assert {event["binding_id"] for event in events} == {created["id"]}
        running.bind(one, phone_a=E, phone_b=F)
        assert {call.result(300).status_code for call in waiting} == {200}


def test_a_caller_of_the_library_may_hold_every_slot(running: Running, simulator: Simulator) -> None:
    """Shares belong to the HTTP service: a program that uses the library is one caller."""
    limit = running.service.settings.bind_limit
    answers = hold_answers(simulator, times=limit)
    fields = {"pool_number": "918806", "expire_s": 600, "mode": "AXB"}
    with ThreadPoolExecutor(limit) as threads, set_at_end(answers):
        for number in range(limit):
            phones = {"phone_a": f"91880{number:04}1", "phone_b": f"91880{number:04}2"}
            threads.submit(running.service.bind, **phones, **fields)  # type: ignore[arg-type]
        wait_for(lambda: simulator.counts.received.get("bind", 0) == limit)
        with pytest.raises(Busy):
            running.service.bind(phone_a=A, phone_b=B, **fields)  # type: ignore[arg-type]
