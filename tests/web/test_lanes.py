"""Which webhook is sent to next: receivers that answer do not wait for those that do not."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from bindings.webhooks import lanes
from bindings.webhooks import sender as sending
from bindings.webhooks.lanes import FAST_WORKERS, NEW_WORKERS, SLOW_WORKERS, Lanes, Pace
from bindings.webhooks.sender import DeliverResult, WebhookSender
from tests.service.harness import feed_has_caught_up, wait_for
from tests.web.receivers import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.webhooks.endpoints import WebhookWithSecret
    from tests.service.harness import ServiceHarness

HANGING = 24
EVENTS = 10


class Work:
    """Work that ends when the test lets it; `started` has the ids in order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self._over = False

    def __call__(self, webhook_id: str) -> str:
        gate = self.gates[webhook_id] = threading.Event()
        self.started.append(webhook_id)
        if not self._over:
            gate.wait()
        return webhook_id

    def end(self, *webhook_ids: str) -> None:
        for webhook_id in webhook_ids:
            self.gates[webhook_id].set()

    def end_all(self) -> None:
        """End what runs and whatever starts later."""
        self._over = True
        self.end(*self.started)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def two_lanes(work: Work) -> Iterator[Lanes[str]]:
    made = Lanes(work)
    yield made
    work.end_all()
    made.stop()


def ids(name: str, count: int) -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def test_new_receivers_leave_places_to_those_that_are_known_to_answer(two_lanes: Lanes[str], work: Work) -> None:
    two_lanes.record("prompt", Pace.PROMPT)
    two_lanes.offer([*ids("new", 20), "prompt"])
    wait_for(lambda: len(work.started) == NEW_WORKERS + 1)
    assert set(work.started) == {*ids("new", NEW_WORKERS), "prompt"}


def test_offer_after_the_stop_has_no_effect(two_lanes: Lanes[str]) -> None:
    """Regression: a run that was just beginning raised RuntimeError, and the webhook counted as running."""
    two_lanes.stop()
    two_lanes.offer(["late"])
    two_lanes.wait(None)
    assert two_lanes.take_ended() == []


def test_slow_receiver_frees_its_place_while_it_is_sent_to(two_lanes: Lanes[str], work: Work) -> None:
    two_lanes.offer(ids("new", NEW_WORKERS + 1))
    wait_for(lambda: len(work.started) == NEW_WORKERS)
    assert two_lanes._waiting
    two_lanes.record("new0", Pace.SLOW)
    assert not two_lanes._waiting
    assert not work.gates["new0"].is_set()


def test_slow_lane_is_bounded_and_takes_no_place_of_the_fast_one(two_lanes: Lanes[str], work: Work) -> None:
    slow = ids("slow", SLOW_WORKERS + 5)
    for webhook_id in slow:
        two_lanes.record(webhook_id, Pace.SILENT)
    for webhook_id in ids("prompt", FAST_WORKERS):
        two_lanes.record(webhook_id, Pace.PROMPT)
    two_lanes.offer([*slow, *ids("prompt", FAST_WORKERS)])
    wait_for(lambda: len(work.started) == SLOW_WORKERS + FAST_WORKERS)
    assert set(work.started) == {*slow[:SLOW_WORKERS], *ids("prompt", FAST_WORKERS)}
    work.end(slow[0])
    wait_for(lambda: slow[SLOW_WORKERS] in work.started)


def test_webhook_has_one_worker_at_a_time_and_its_result_is_taken_once(two_lanes: Lanes[str], work: Work) -> None:
    two_lanes.offer(["one"])
    two_lanes.offer(["one", "one"])
    wait_for(lambda: work.started == ["one"])
    work.end("one")
    two_lanes.wait(30)
    assert two_lanes.take_ended() == [("one", "one")]
    assert two_lanes.take_ended() == []
    two_lanes.offer(["one"])
    wait_for(lambda: work.started == ["one", "one"])


def test_stop_starts_none_of_those_that_wait(two_lanes: Lanes[str], work: Work) -> None:
    two_lanes.offer(ids("new", 20))
    wait_for(lambda: len(work.started) == NEW_WORKERS)
    stopping = threading.Thread(target=two_lanes.stop)
    stopping.start()
    wait_for(lambda: not two_lanes._waiting)
    work.end(*work.started)
    stopping.join(30)
    assert len(work.started) == NEW_WORKERS


# With a sender and receivers on real sockets.


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Receiver]]:
    """Receivers that answer nothing until the test releases them; an attempt never ends before."""
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT_S", 120.0)
    monkeypatch.setattr(lanes, "PROMPT_S", 0.2)
    with ExitStack() as stack:
        receivers = [stack.enter_context(Receiver()) for _ in range(HANGING)]
        for receiver in receivers:
            receiver.answers = receiver.hangs
        yield receivers


def add_webhook(harness: ServiceHarness, receiver: Receiver) -> WebhookWithSecret:
    return harness.service.webhooks.add(url=receiver.url, kinds=["activated"])


def has_sent(sender: WebhookSender, receiver: Receiver, count: int) -> bool:
    """Run the sender once and return whether the receiver has got that many messages."""
    sender.run()
    return len(receiver.ids) == count


def bind(harness: ServiceHarness, first: int, count: int) -> None:
    for number in range(first, first + count):
        harness.bind(f"9188060{number:03}", f"9188070{number:03}")
    feed_has_caught_up(harness.service)


def release(monkeypatch: pytest.MonkeyPatch, *receivers: Receiver) -> None:
    """Let the receivers answer; from now on every answer counts as prompt, on a busy machine too."""
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT_S", 120.0)
    monkeypatch.setattr(lanes, "PROMPT_S", 120.0)
    for receiver in receivers:
        receiver.released.set()


def test_receiver_gets_every_event_while_many_others_hang(
    harness: ServiceHarness, hanging: list[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed_has_caught_up(harness.service)
    others = [add_webhook(harness, receiver) for receiver in hanging]
    with Receiver() as good:
        add_webhook(harness, good)  # the last of all: none before it answers
        with WebhookSender(harness.service.runtime) as sender:
            for begin in range(0, EVENTS, 2):
                bind(harness, begin, 2)
                wait_for(partial(has_sent, sender, good, begin + 2))
            cursors = [json.loads(message.body)["data"]["cursor"] for message in good.messages]
            assert len(set(cursors)) == EVENTS
            wait_for(lambda: all(receiver.arrived.is_set() for receiver in hanging))
            assert sum(receiver.answered for receiver in hanging) == 0
            for created in others:
                recorded = harness.service.webhooks.deliveries(created.webhook.id).data
                assert {(delivery.state, delivery.error) for delivery in recorded} == {("pending", None)}
            release(monkeypatch, *hanging)
            wait_for(lambda: sender.run() is not None and all(len(r.ids) == EVENTS for r in hanging))
            sender.run(wait_s=None)
            assert {sender._lanes.pace(created.webhook.id) for created in others} == {Pace.PROMPT}


def test_receiver_that_timed_out_is_sent_one_event_at_a_time_in_the_slow_lane_until_it_answers(
    harness: ServiceHarness, hanging: list[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT_S", 0.6)
    monkeypatch.setattr(sending, "BACKOFF_AFTER_FAILURE_S", 0.0)
    feed_has_caught_up(harness.service)
    [receiver, *_] = hanging
    created = add_webhook(harness, receiver)
    bind(harness, 0, EVENTS)
    with WebhookSender(harness.service.runtime) as sender:
        assert sender.run(wait_s=None).failed == sending.REQUESTS_PER_WEBHOOK
        assert sender._lanes.pace(created.webhook.id) is Pace.SILENT
        assert sender.run(wait_s=None) == DeliverResult(failed=1)
        release(monkeypatch, receiver)
        assert sender.run(wait_s=None).delivered == EVENTS - sending.REQUESTS_PER_WEBHOOK - 1
        assert sender._lanes.pace(created.webhook.id) is Pace.PROMPT


def test_stop_ends_a_sender_with_many_hanging_receivers_with_their_attempts(
    harness: ServiceHarness, hanging: list[Receiver]
) -> None:
    feed_has_caught_up(harness.service)
    for receiver in hanging:
        add_webhook(harness, receiver)
    bind(harness, 0, EVENTS)
    sender = WebhookSender(harness.service.runtime)
    sender.run(wait_s=0)
    wait_for(lambda: all(receiver.arrived.is_set() for receiver in hanging))
    stopping = threading.Thread(target=sender.stop)
    stopping.start()
    wait_for(sender._stopping.is_set)
    for receiver in hanging:
        receiver.released.set()
    stopping.join(60)
    assert not stopping.is_alive()
    assert {len(receiver.ids) for receiver in hanging} == {sending.REQUESTS_PER_WEBHOOK}, "no attempt began since"
