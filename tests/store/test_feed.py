"""The change feed: complete, in order, and never past an event that commits late."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller, EventKind, State
from bindings.monitoring import feed_check
from bindings.monitoring.check import Level
from bindings.store import events, reserve, settle
from tests.service.harness import (
    APP,
    A,
    B,
    C,
    Clock,
    D,
    E,
    F,
    ServiceHarness,
    feed_has_caught_up,
    in_threads,
    service_at,
)
from tests.store.test_reserve import TERMS, fail, request, reserved, success

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Event
    from bindings.service import BindingService
    from bindings.store.database import Database

CALLER = Caller(actor="test")


def read_all(service: BindingService, after: str | None, limit: int = 200) -> tuple[list[Event], str]:
    """Return all events after a cursor, and the cursor of the end."""
    received: list[Event] = []
    while True:
        page = service.events(after=after, limit=limit)
        assert page.next_cursor is not None
        after = page.next_cursor
        if not page.data:
            return received, after
        received += page.data


def test_feed_returns_every_event_once_and_in_order_per_binding(harness: ServiceHarness) -> None:
    for a, b in ((A, B), (C, D), (E, F)):
        harness.service.unbind(harness.bind(a, b).id)
    feed_has_caught_up(harness.service)
    received, end = read_all(harness.service, None, limit=5)
    assert len({event.cursor for event in received}) == len(received) == 3 * 4
    by_binding: dict[str, list[int]] = {}
    for event in received:
        by_binding.setdefault(str(event.binding_id), []).append(event.sequence)
    assert all(sequence == [1, 2, 3, 4] for sequence in by_binding.values())
    assert read_all(harness.service, end) == ([], end)


def test_cursor_of_an_empty_feed_returns_later_events(harness: ServiceHarness) -> None:
    page = harness.service.events()
    assert (page.data, page.next_cursor) == ((), "0-0")
    binding = harness.bind()
    feed_has_caught_up(harness.service)
    assert [event.binding_id for event in read_all(harness.service, page.next_cursor)[0]] == [binding.id] * 2


def test_cursor_of_an_event_resumes_after_that_event(harness: ServiceHarness) -> None:
    harness.service.unbind(harness.bind().id)
    feed_has_caught_up(harness.service)
    received, _ = read_all(harness.service, None)
    for position, event in enumerate(received):
        assert read_all(harness.service, event.cursor)[0] == received[position + 1 :]


@contextmanager
def _held_open(database: Database, work: Callable[[Any], Any]) -> Iterator[None]:
    """Run `work` in a transaction that stays open for the duration of the context."""
    ready, go_on = threading.Event(), threading.Event()

    def slow(tx: Any) -> None:
        work(tx)
        ready.set()
        go_on.wait(300)

    thread = threading.Thread(target=lambda: database.write(slow), daemon=True)
    thread.start()
    try:
        assert ready.wait(300)
        yield
    finally:
        go_on.set()
        thread.join(300)


@pytest.mark.postgres
def test_event_that_waits_for_an_open_transaction_is_not_final(postgres_url: str, clock: Clock) -> None:
    service = service_at(postgres_url, clock, "http://127.0.0.1:1")
    database = service.runtime.database
    feed_has_caught_up(service)
    assert database.read(events.oldest_not_final) is None
    with _held_open(database, lambda tx: reserve.reserve(tx, str(uuid7()), request(C, D), TERMS, CALLER)):
        reserved(database, request(E, F))
        written_at = clock.at
        clock.advance(61)
        assert database.read(events.oldest_not_final) == written_at
        assert feed_check.feed_in_order(database).level is Level.WARN
    feed_has_caught_up(service)
    assert database.read(events.oldest_not_final) is None
    assert feed_check.feed_in_order(database).level is Level.OK
    service.close()


@pytest.mark.postgres
def test_feed_waits_for_a_transaction_that_commits_late(postgres_url: str, clock: Clock) -> None:
    service = service_at(postgres_url, clock, "http://127.0.0.1:1")
    database = service.runtime.database
    early = reserved(database, request(A, B))
    feed_has_caught_up(service)
    with _held_open(database, lambda tx: reserve.reserve(tx, str(uuid7()), request(C, D), TERMS, CALLER)):
        later = reserved(database, request(E, F))
        first_page, cursor = read_all(service, None)
        assert [event.binding_id for event in first_page] == [early.id], "nothing after the running transaction"
    feed_has_caught_up(service)
    more, _ = read_all(service, cursor)
    assert len(more) == 2
    assert more[-1].binding_id == later.id
    assert len({event.cursor for event in first_page + more}) == 3
    service.close()


def test_feed_that_starts_at_latest_has_only_later_events(harness: ServiceHarness) -> None:
    service = harness.service
    assert service.events(after="latest").next_cursor == "0-0"
    harness.bind()
    feed_has_caught_up(service)
    pages = service.events(after="latest"), service.events_for_actor("test", after="latest")
    later = harness.bind(C, D)
    feed_has_caught_up(service)
    for page in pages:
        assert (page.data, page.next_cursor) == ((), pages[0].next_cursor)
        assert {event.binding_id for event in read_all(service, page.next_cursor)[0]} == {later.id}


@pytest.mark.postgres
def test_feed_that_starts_at_latest_has_an_event_that_commits_late(postgres_url: str, clock: Clock) -> None:
    service = service_at(postgres_url, clock, "http://127.0.0.1:1")
    database = service.runtime.database
    early = reserved(database, request(A, B))
    feed_has_caught_up(service)
    with _held_open(database, lambda tx: reserve.reserve(tx, str(uuid7()), request(C, D), TERMS, CALLER)):
        later = reserved(database, request(E, F))
        start = service.events(after="latest").next_cursor
    feed_has_caught_up(service)
    received, _ = read_all(service, start)
    assert [event.binding_id for event in received][-1] == later.id
    assert len(received) == 2
    assert early.id not in {event.binding_id for event in received}
    service.close()


@pytest.mark.postgres
def test_events_of_a_binding_keep_order_if_the_older_transaction_writes_second(
    postgres_url: str, clock: Clock
) -> None:
    """A transaction with the lower number may be the last to write to a binding."""
    service = service_at(postgres_url, clock, "http://127.0.0.1:1")
    database = service.runtime.database
    intent = reserved(database, request())
    numbered, go_on = threading.Event(), threading.Event()

    def older(tx: Any) -> None:
        events.append_without_binding(tx, EventKind.REVEALED, CALLER, {})  # takes its number now
        numbered.set()
        go_on.wait(300)
        settle.request_unbind(tx, intent.id, CALLER, "late")

    thread = threading.Thread(target=lambda: database.write(older), daemon=True)
    thread.start()
    assert numbered.wait(300)
    database.write(lambda tx: settle.settle_success(tx, intent, success(), CALLER))
    go_on.set()
    thread.join(300)
    feed_has_caught_up(service)
    received, _ = read_all(service, None)
    own_events = [(event.sequence, event.kind) for event in received if event.binding_id == intent.id]
    assert own_events == [
        (1, EventKind.REQUESTED),
        (2, EventKind.ACTIVATED),
        (3, EventKind.UNBIND_REQUESTED),
    ]
    service.close()


def test_feed_reader_concurrent_with_writers_sees_every_event_in_order(database_url: str, clock: Clock) -> None:
    service = service_at(database_url, clock, "http://127.0.0.1:1")
    database, seed = service.runtime.database, random.randrange(10**6)
    print("seed", seed)  # noqa: T201 -- a failure can be repeated
    stop = threading.Event()
    followed: list[Event] = []

    def write(number: int) -> None:
        dice = random.Random(seed + number)
        for turn in range(12):
            intent = reserved(database, request(f"91880{number}{turn:03}1", f"91880{number}{turn:03}2"))
            if dice.random() < 0.5:
                database.write(
                    lambda tx: settle.settle_success(tx, intent, success(f"{number}-{turn}"), CALLER)  # noqa: B023
                )
            else:
                fail(database, intent)

    def follow() -> None:
        cursor: str | None = None
        while True:
            last = stop.is_set()
            received, cursor = read_all(service, cursor, limit=7)
            followed.extend(received)
            if last:
                return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        assert in_threads(*(lambda number=number: write(number) for number in range(4))) == []
        feed_has_caught_up(service)
    finally:
        stop.set()
        reader.join(300)
    assert [event.cursor for event in followed] == [event.cursor for event in service.export_events()]
    latest: dict[str, int] = {}
    for event in followed:
        key = str(event.binding_id)
        assert event.sequence == latest.get(key, 0) + 1
        latest[key] = event.sequence
    assert len(latest) == 48
    service.close()


def test_event_records_actor_and_request_id(harness: ServiceHarness) -> None:
    binding = harness.bind()
    harness.service.as_caller(actor="dispatcher", request_id="req-7").unbind(binding.id, reason="trip ended")
    unbind_request, ended = harness.service.history(binding.id)[2:]
    assert (unbind_request.actor, unbind_request.request_id, unbind_request.detail["reason"]) == (
        "dispatcher",
        "req-7",
        "trip ended",
    )
    assert (ended.actor, ended.kind) == ("dispatcher", EventKind.UNBOUND)
    assert harness.service.get(binding.id).actor == "test"
    assert harness.service.get(binding.id).state is State.UNBOUND
    assert binding.app_id == APP
