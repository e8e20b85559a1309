"""The change feed over HTTP: complete, in order, resumable, and with long polling."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import Caller, EventKind
from bindings.store import events
from bindings.store.database import Database
from bindings.web.shares import Shares
from tests.service.harness import A, B, C, D, E, F, wait_for

if TYPE_CHECKING:
    from tests.web.conftest import Running


def read_on(running: Running, after: str | None = None, **parameters: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the events up to the end of the feed, and the cursor there."""
    feed_events: list[dict[str, Any]] = []
    while True:
        query = {"limit": 2, **parameters} | ({"after": after} if after else {})
        page = running.get("/v1/events", params=query).json()
        after = page["next_cursor"]
        if not page["data"]:
            return feed_events, str(after)
        feed_events += page["data"]


def everything(running: Running, count: int) -> tuple[list[dict[str, Any]], str]:
    """Return at least `count` events: transactions in other databases of the server delay the feed."""
    feed_events, after = read_on(running)
    deadline = time.monotonic() + 60
    while len(feed_events) < count:
        assert time.monotonic() < deadline, feed_events
        more, after = read_on(running, after, wait_s=1)
        feed_events += more
    return feed_events, after


def test_feed_is_complete_ordered_and_continues_after_the_cursor(running: Running) -> None:
    first, second = running.bind().json(), running.bind(phone_a=C, phone_b=D).json()
    feed_events, end = everything(running, 4)
    assert [(event["binding_id"], event["sequence"]) for event in feed_events] == [
        (first["id"], 1),
        (first["id"], 2),
        (second["id"], 1),
        (second["id"], 2),
    ]
    assert [event["cursor"] for event in feed_events][-1] == end
    middle = running.get("/v1/events", params={"after": feed_events[1]["cursor"]}).json()
    assert middle["data"] == feed_events[2:]
    assert running.get("/v1/events", params={"after": end}).json() == {"data": [], "next_cursor": end}


def test_latest_waits_for_the_next_event_and_returns_none_before(running: Running) -> None:
    running.bind()
    _, end = everything(running, 2)
    assert running.get("/v1/events", params={"after": "latest"}).json() == {"data": [], "next_cursor": end}
    with ThreadPoolExecutor(1) as waiting:
        call = waiting.submit(running.get, "/v1/events", params={"after": "latest", "wait_s": 30})
        wait_for(lambda: running.app_state.notifier.waiting == 1)
        created = running.bind(phone_a=E, phone_b=F).json()
        assert {event["binding_id"] for event in call.result(300).json()["data"]} == {created["id"]}


def test_waiting_requests_are_woken_by_the_next_event(running: Running) -> None:
    running.bind()
    _, end = everything(running, 2)
    with ThreadPoolExecutor(4) as waiting:
        calls = [waiting.submit(running.get, "/v1/events", params={"after": end, "wait_s": 30}) for _ in range(4)]
        wait_for(lambda: running.app_state.notifier.waiting == 4)
        created = running.bind(phone_a=E, phone_b=F).json()
        for call in calls:
            assert {event["binding_id"] for event in call.result(300).json()["data"]} == {created["id"]}


def test_wait_without_events_returns_an_empty_page_in_time(running: Running) -> None:
    end = running.service.feed_end()
    page = running.get("/v1/events", params={"after": end, "wait_s": 0.3})
    assert page.json() == {"data": [], "next_cursor": end}


def test_shutdown_wakes_waiting_requests(running: Running) -> None:
    answers: list[int] = []
    end = running.service.feed_end()

    def wait() -> None:
        answers.append(running.get("/v1/events", params={"after": end, "wait_s": 30}).status_code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: running.app_state.notifier.waiting == 1)
    running.uvicorn.drain()
    waiting.join(300)
    assert answers == [200]
    assert running.get("/readyz").status_code == 503


def test_wait_past_the_limit_is_busy(running: Running) -> None:
    running.app_state.notifier._places = Shares("long polls", 0)
    end = running.service.feed_end()
    answer = running.get("/v1/events", params={"after": end, "wait_s": 5})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")


@pytest.mark.parametrize("after", ["x", "1", "-1-2", "1-2-3", "9" * 30 + "-1", ""])
def test_invalid_cursor_is_refused(running: Running, after: str) -> None:
    refused = running.get("/v1/events", params={"after": after})
    assert refused.status_code == 422
    assert [fault["field"] for fault in refused.json()["errors"]] == ["after"]


@pytest.mark.parametrize("wait_s", ["-1", "31", "nan", "inf", "x", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_invalid_wait_is_refused(running: Running, wait_s: str) -> None:
    refused = running.get("/v1/events", params={"wait_s": wait_s})
    assert [fault["field"] for fault in refused.json()["errors"]] == ["wait_s"]


def test_cursor_of_an_app_advances_past_events_of_other_actors(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STRETCH", 3)
    rides, food = running.key("app", "rides"), running.key("app", "food")
    for number in range(3):
        assert running.bind(food, phone_a=f"91880688{number}0", phone_b=f"91880688{number}1").status_code == 201
    own = running.bind(rides).json()
    after: str | None = None
    feed_events: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(feed_events) < 2 and time.monotonic() < deadline:
        query: dict[str, Any] = {"wait_s": 1} | ({"after": after} if after else {})
        page = running.get("/v1/events", rides, params=query).json()
        after, feed_events = page["next_cursor"], feed_events + page["data"]
    assert [(event["binding_id"], event["sequence"]) for event in feed_events] == [(own["id"], 1), (own["id"], 2)]


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_event_that_commits_late_is_not_skipped(running: Running, database_url: str) -> None:
    """Hold a transaction open after it has written its event, while later transactions commit."""
    begin, release = threading.Event(), threading.Event()
    late = Database(database_url)

    def write() -> None:
        def work(tx: Any) -> None:
            events.append_without_binding(tx, EventKind.HELD, Caller(actor="late"), {"phones": 0})
            begin.set()
            assert release.wait(300)

        late.write(work)

    writer = threading.Thread(target=write)
    writer.start()
    assert begin.wait(300)
    created = running.bind(phone_a=A, phone_b=B).json()
    assert read_on(running)[0] == [], "what committed after the open transaction began is not shown yet"
    release.set()
    writer.join(300)
    late.close()
    feed_events, _ = everything(running, 3)
    assert [event["actor"] for event in feed_events] == ["late", "local", "local"]
    assert {event["binding_id"] for event in feed_events} == {None, created["id"]}
