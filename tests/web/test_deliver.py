"""Events reach their receivers: signed, at least once and on schedule; receivers do not delay each other."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError
from uuid_utils.compat import uuid7

from bindings.domain.binding import Caller, EventKind
from bindings.scheduler import Scheduler
from bindings.store import deliveries as stored_deliveries
from bindings.store import events, reserve
from bindings.store import webhooks as stored
from bindings.store.deliveries import Result
from bindings.webhooks import messages
from bindings.webhooks import sender as sending
from bindings.webhooks.messages import body_of, type_of
from bindings.webhooks.sender import (
    RETRIES_S,
    DeliverResult,
    WebhookSender,
    deliver_pending,
    prune,
    send_test,
)
from tests import deliveries
from tests.provider.sockets import Server, drips, resets, says, stays_silent
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
    wait_for,
)
from tests.store.test_feed import _held_open
from tests.store.test_reserve import TERMS, request
from tests.web.receivers import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService
    from bindings.store.deliveries import Delivery
    from bindings.webhooks.endpoints import WebhookWithSecret
    from tests.provider.sockets import Script

ROOT = Path(__file__).parents[2]
CALLER = Caller(actor="test")
DAY_S = 86_400
OK = b"HTTP/1.1 200 OK\r\n"


def add_webhook(harness: ServiceHarness, receiver: Receiver, *kinds: str) -> WebhookWithSecret:
    """Add a webhook that gets the events from now on."""
    feed_has_caught_up(harness.service)
    return harness.service.webhooks.add(url=receiver.url, kinds=kinds or None)


def deliver_all(harness: ServiceHarness) -> DeliverResult:
    """Deliver all pending events once."""
    feed_has_caught_up(harness.service)
    return deliver_pending(harness.service.runtime)


def only(harness: ServiceHarness, created: WebhookWithSecret) -> Delivery:
    [delivery] = harness.service.webhooks.deliveries(created.webhook.id).data
    return delivery


def states(harness: ServiceHarness, created: WebhookWithSecret) -> list[tuple[str, int]]:
    """Return state and attempts of each delivery, the oldest event first."""
    listed = harness.service.webhooks.deliveries(created.webhook.id, limit=200).data
    return [(str(delivery.state), delivery.attempts) for delivery in reversed(listed)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


# What is sent.


def test_nothing_is_sent_to_a_name_with_an_address_inside(
    harness: ServiceHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name has another address when it is connected to than any check before could see."""
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    look_up = socket.getaddrinfo

    def look_up_inside(host: str, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "receiver.example" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_inside)
    created = harness.service.webhooks.add(url=f"http://receiver.example:{port}/events", kinds=["activated"])
    feed_has_caught_up(harness.service)
    harness.bind()
    feed_has_caught_up(harness.service)
    service = harness.open(webhook_networks="10.0.0.0/8")
    deliver_pending(service.runtime)
    assert receiver.messages == []
    assert only(harness, created).error == "connect: not a public address, and not in BINDINGS_WEBHOOK_NETWORKS"
    assert send_test(service.runtime, created.webhook.id).error is not None
    assert send_test(harness.service.runtime, created.webhook.id).error is None


def test_delivery_is_signed_and_holds_only_the_event(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver)
    bound = harness.bind(reference="order-42")
    assert deliver_all(harness) == DeliverResult(fanned_out=2, delivered=2)
    message_by_type = {message.verified(created.secret)["type"]: message for message in receiver.messages}
    assert set(message_by_type) == {"binding.requested", "binding.activated"}
    event = harness.service.history(bound.id)[1]
    body = message_by_type["binding.activated"].verified(created.secret)
    assert body == {
        "type": "binding.activated",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {
            "binding_id": bound.id,
            "reference": "order-42",
            "sequence": 2,
            "kind": "activated",
            "at": "2026-03-01T12:00:00Z",
            "cursor": event.cursor,
        },
    }
    assert message_by_type["binding.activated"].headers["content-type"] == "application/json"
    assert deliver_all(harness) == DeliverResult()


def test_signature_does_not_verify_with_another_secret(harness: ServiceHarness, receiver: Receiver) -> None:
    created, other = add_webhook(harness, receiver), add_webhook(harness, receiver)
    assert send_test(harness.service.runtime, created.webhook.id).error is None
    [message] = receiver.messages
    assert message.verified(created.secret)["type"] == "test"
    with pytest.raises(WebhookVerificationError):
        message.verified(other.secret)


def test_new_webhook_gets_only_later_events(harness: ServiceHarness, receiver: Receiver) -> None:
    before = harness.bind()
    add_webhook(harness, receiver)
    after = harness.bind(C, D)
    deliver_all(harness)
    ids = {json.loads(message.body)["data"]["binding_id"] for message in receiver.messages}
    assert ids == {after.id} != {before.id}


def test_webhook_gets_only_its_kinds_of_event(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver, "unbound")
    harness.service.unbind(harness.bind().id)
    assert deliver_all(harness).fanned_out == 1
    assert [message.verified(created.secret)["type"] for message in receiver.messages] == ["binding.unbound"]
    assert deliver_all(harness) == DeliverResult()


def test_pool_event_names_only_the_pool(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver, "pool_low")
    detail = {"app_id": APP, "pool_number": "918806", "why": "share", "live": 9, "capacity": 10, "phone": "x"}
    harness.database.write(lambda tx: events.append_without_binding(tx, EventKind.POOL_LOW, CALLER, detail))
    deliver_all(harness)
    body = receiver.messages[0].verified(created.secret)
    assert body["type"] == "pool.low"
    assert body["data"]["binding_id"] is None
    assert "phone" not in body["data"]
    assert {name: body["data"].get(name, "x") for name in detail} == detail


def test_expiry_warning_is_delivered(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver, "expires_soon")
    binding = harness.bind(expire_s=600, warn_s=60)
    harness.clock.advance(541)
    harness.service.warn_due()
    deliver_all(harness)
    body = receiver.messages[0].verified(created.secret)
    assert (body["type"], body["data"]["binding_id"]) == ("binding.expires_soon", binding.id)
    assert body["data"]["expires_at"].endswith("Z")
    assert datetime.fromisoformat(body["data"]["expires_at"]) == binding.expires_at
    assert body["data"].keys() - {"expires_at"} == {
        "binding_id",
        "reference",
        "sequence",
        "kind",
        "at",
        "cursor",
    }


def test_expiry_warning_of_an_earlier_version_is_delivered(harness: ServiceHarness) -> None:
    event = replace(harness.service.history(harness.bind().id)[0], kind=EventKind.EXPIRES_SOON, detail={})
    assert "expires_at" not in json.loads(body_of(event))["data"]


def test_documented_event_types_are_those_that_are_sent() -> None:
    page = (ROOT / "docs" / "how-to" / "webhooks.md").read_text(encoding="utf-8")
    for kind in EventKind:
        entry = "`binding.<kind>`" if type_of(kind) == f"binding.{kind}" else f"| `{kind}` | `{type_of(kind)}` |"
        assert entry in page


def test_bodies_logs_and_reprs_hold_no_number_and_no_secret(
    harness: ServiceHarness, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "bindings")  # a command that ran before has set it
    feed_has_caught_up(harness.service)
    created = harness.service.webhooks.add(url=receiver.url + "?token=tok-7f3a")
    receiver.answers = lambda _: Reply(status=500 if len(receiver.messages) % 2 else 200)
    bound = harness.bind()
    harness.service.unbind(bound.id)
    for _ in range(4):
        deliver_all(harness)
        harness.clock.advance(DAY_S)
    assert "token" in receiver.messages[0].path
    assert any("delivered" in line for line in caplog.messages)
    assert any("failed" in line for line in caplog.messages)
    hooks = harness.service.webhooks
    representations = [
        repr(created),
        repr(hooks.list()),
        repr(hooks.get(created.webhook.id)),
        repr(deliveries.target(harness.service, created.webhook.id)),
    ]
    sent = [message.body.decode() for message in receiver.messages]
    lines = [line for line in caplog.messages if "delivery" in line or "webhook" in line]
    for secret in (A, B, str(bound.middle_number_a), created.secret, created.secret[6:], "tok-7f3a"):
        assert not any(secret in text for text in [*representations, *sent, *lines])


# Retries.


@pytest.mark.usefixtures("_no_jitter")
def test_failed_delivery_is_retried_on_schedule_and_then_given_up(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    receiver.answers = lambda _: Reply(status=500)
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    for attempt, pause_s in enumerate(RETRIES_S, start=1):
        assert deliver_all(harness).failed == 1
        waiting = only(harness, created)
        assert (waiting.state, waiting.attempts, waiting.status) == ("pending", attempt, 500)
        assert waiting.error == "the receiver answered 500"
        assert waiting.next_at == harness.clock.at + timedelta(seconds=pause_s)
        harness.clock.advance(pause_s - 1)
        assert deliver_all(harness) == DeliverResult(), "not before its time"
        harness.clock.advance(1)
    assert deliver_all(harness).dead == 1
    assert (only(harness, created).state, only(harness, created).finished_at) == ("dead", harness.clock.at)
    assert len(receiver.messages) == len(RETRIES_S) + 1
    assert len({(message.id, message.body) for message in receiver.messages}) == 1
    harness.clock.advance(2 * DAY_S)
    assert deliver_all(harness) == DeliverResult()


def test_retries_are_spread_by_jitter(harness: ServiceHarness, receiver: Receiver) -> None:
    receiver.answers = lambda _: Reply(status=500)
    created = add_webhook(harness, receiver)
    harness.bind()
    harness.bind(C, D)
    deliver_all(harness)
    listed = harness.service.webhooks.deliveries(created.webhook.id).data
    waits = [(delivery.next_at - harness.clock.at).total_seconds() for delivery in listed]
    assert len(set(waits)) == 4
    assert all(0.85 * RETRIES_S[0] <= wait <= 1.15 * RETRIES_S[0] for wait in waits)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("999999999", float(DAY_S)), ("0", RETRIES_S[0]), ("soon", RETRIES_S[0]), ("", RETRIES_S[0])],
)
@pytest.mark.usefixtures("_no_jitter")
def test_retry_after_in_seconds_is_respected(
    harness: ServiceHarness, receiver: Receiver, header: str, seconds: float
) -> None:
    receiver.answers = lambda _: Reply(status=503, headers={"Retry-After": header})
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    deliver_all(harness)
    assert only(harness, created).next_at == harness.clock.at + timedelta(seconds=seconds)


@pytest.fixture
def _zone_of_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "form", ["%a, %d %b %Y %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S -0000", "%A, %d-%b-%y %H:%M:%S GMT", "%c"]
)
@pytest.mark.usefixtures("_zone_of_india")
def test_retry_after_as_a_date_is_in_utc_whatever_the_zone_of_this_host(
    harness: ServiceHarness, receiver: Receiver, form: str
) -> None:
    date = (datetime.now(UTC) + timedelta(hours=1)).strftime(form)
    receiver.answers = lambda _: Reply(status=429, headers={"Retry-After": date})
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    deliver_all(harness)
    waits = only(harness, created).next_at - harness.clock.at
    assert timedelta(minutes=55) < waits <= timedelta(hours=1)


def test_redirect_is_a_failure_and_is_not_followed(harness: ServiceHarness, receiver: Receiver) -> None:
    with Receiver() as elsewhere:
        receiver.answers = lambda _: Reply(status=307, headers={"Location": elsewhere.url})
        created = add_webhook(harness, receiver, "activated")
        harness.bind()
        assert deliver_all(harness).failed == 1
        assert (only(harness, created).status, elsewhere.messages) == (307, [])


def test_410_disables_the_webhook_and_enabling_sends_pending_events(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    receiver.answers = lambda _: Reply(status=410)
    created = add_webhook(harness, receiver, "activated")
    first = harness.bind()
    deliver_all(harness)
    hook = harness.service.webhooks.get(created.webhook.id)
    assert (hook.disabled_at, hook.disabled_why) == (harness.clock.at, "the receiver answered 410")
    second = harness.bind(C, D)
    harness.clock.advance(DAY_S)
    assert deliver_all(harness) == DeliverResult()
    receiver.answers = lambda _: Reply()
    assert harness.service.webhooks.enable(created.webhook.id).disabled_why is None
    deliver_all(harness)
    binding_ids = [json.loads(message.body)["data"]["binding_id"] for message in receiver.messages]
    assert sorted(binding_ids) == sorted([first.id, first.id, second.id])


def test_refused_connection_is_a_failure_with_a_reason(harness: ServiceHarness) -> None:
    with Receiver() as closed:
        pass
    created = add_webhook(harness, closed, "activated")
    harness.bind()
    deliver_all(harness)
    assert only(harness, created).error == "connect: connection refused"
    assert only(harness, created).status is None


@pytest.mark.parametrize("start", [b"", OK + b"X: "])
def test_response_that_hangs_or_drips_times_out(
    harness: ServiceHarness, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT_S", 0.3)
    with Server(drips(start) if start else stays_silent) as slow:
        feed_has_caught_up(harness.service)
        created = harness.service.webhooks.add(url=slow.url, kinds=["activated"])
        harness.bind()
        assert deliver_all(harness).failed == 1
        assert only(harness, created).error == "read: timed out"


@pytest.mark.parametrize(
    "script",
    [
        drips(OK + b"Content-Length: 9999\r\n\r\n"),
        says(OK + b"Content-Length: 9999\r\n\r\nok"),
        says(OK + b"Transfer-Encoding: chunked\r\n\r\nno length"),
        says(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"),
        resets(OK + b"\r\n"),
    ],
    ids=["drips", "is cut", "has no chunks", "is not compressed", "is reset"],
)
def test_message_is_accepted_by_its_status_and_not_by_its_body(harness: ServiceHarness, script: Script) -> None:
    with Server(script) as accepting:
        feed_has_caught_up(harness.service)
        created = harness.service.webhooks.add(url=accepting.url, kinds=["activated"])
        harness.bind()
        assert deliver_all(harness).delivered == 1
        assert (only(harness, created).status, only(harness, created).error) == (200, None)


def test_large_response_is_not_read(harness: ServiceHarness, receiver: Receiver) -> None:
    receiver.answers = lambda _: Reply(status=200, body=b"x" * (8 << 20))
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    assert deliver_all(harness).delivered == 1
    assert only(harness, created).status == 200


def test_failure_releases_the_other_deliveries_without_an_attempt(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    receiver.answers = lambda _: Reply(status=500)
    created = add_webhook(harness, receiver)
    for a, b in ((A, B), (C, D), (E, F)):
        harness.bind(a, b)
    assert deliver_all(harness).failed == sending.REQUESTS_PER_WEBHOOK
    assert states(harness, created) == [("pending", 1)] * 4 + [("pending", 0)] * 2
    receiver.answers = lambda _: Reply()
    assert deliver_all(harness).delivered == 2, "released deliveries are due immediately"


# Dead letters.


def dead_letter(harness: ServiceHarness, receiver: Receiver) -> WebhookWithSecret:
    receiver.answers = lambda _: Reply(status=500)
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    for _ in range(len(RETRIES_S) + 1):
        deliver_all(harness)
        harness.clock.advance(2 * DAY_S)
    assert only(harness, created).state == "dead"
    receiver.answers = lambda _: Reply()
    return created


def test_dead_delivery_is_sent_again_with_the_same_id(harness: ServiceHarness, receiver: Receiver) -> None:
    created = dead_letter(harness, receiver)
    redelivered = harness.service.webhooks.redeliver(only(harness, created).id)
    assert (redelivered.state, redelivered.attempts) == ("pending", 0)
    assert harness.service.webhooks.redeliver(redelivered.id) == redelivered, "safe to repeat"
    assert deliver_all(harness).delivered == 1
    assert set(receiver.ids) == {redelivered.id}
    assert states(harness, created) == [("delivered", 1)]


def test_all_dead_deliveries_of_a_webhook_are_sent_again(harness: ServiceHarness, receiver: Receiver) -> None:
    created = dead_letter(harness, receiver)
    assert harness.service.webhooks.redeliver_dead(created.webhook.id) == 1
    assert harness.service.webhooks.redeliver_dead(created.webhook.id) == 0
    assert deliver_all(harness).delivered == 1


def test_delivered_is_deleted_after_a_week_and_dead_after_a_month(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    created = dead_letter(harness, receiver)
    harness.bind(C, D)
    deliver_all(harness)
    harness.clock.advance(8 * DAY_S)
    assert prune(harness.service.runtime.database) == 1
    assert states(harness, created) == [("dead", 10)]
    harness.clock.advance(30 * DAY_S)
    deliver_all(harness)
    assert states(harness, created) == [], "a pass prunes too"
    assert deliver_all(harness) == DeliverResult(), "deleted deliveries are not created again"


def test_run_deletes_one_batch_of_old_deliveries_and_the_next_run_continues(
    harness: ServiceHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = add_webhook(harness, receiver)
    harness.bind(A, B)
    deliver_all(harness)
    count = len(states(harness, created))
    harness.clock.advance(8 * DAY_S)
    monkeypatch.setattr(sending, "PRUNED", 1)
    left = []
    with WebhookSender(harness.service.runtime) as sender:
        for _ in range(count):
            sender.run(wait_s=None)
            left.append(len(states(harness, created)))
    assert left == list(range(count - 1, -1, -1))


# Secrets.


def test_both_secrets_sign_for_a_day_after_a_rotation(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver)
    rotated = harness.service.webhooks.rotate(created.webhook.id)
    assert rotated.secret != created.secret
    send_test(harness.service.runtime, created.webhook.id)
    harness.clock.advance(DAY_S)
    send_test(harness.service.runtime, created.webhook.id)
    both, new = receiver.messages
    assert both.verified(created.secret)
    assert both.verified(rotated.secret)
    assert new.verified(rotated.secret)
    with pytest.raises(WebhookVerificationError):
        new.verified(created.secret)


def test_repeated_rotation_keeps_the_old_secret(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver)
    for _ in range(2):  # as after a COMMIT whose reply was lost
        harness.database.write(lambda tx: stored.rotate(tx, created.webhook.id, CALLER, "whsec_bmV3"))
    assert deliveries.target(harness.service, created.webhook.id).secrets == ("whsec_bmV3", created.secret)


# At least once, and if possible exactly once.


def test_two_senders_deliver_each_event_once(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver)
    services = [harness.service, harness.open()]
    for number in range(20):
        harness.bind(f"9188060{number:03}", f"9188070{number:03}")
    feed_has_caught_up(harness.service)
    assert (
        in_threads(
            *(lambda service=service: deliver_pending(service.runtime) for service in services for _ in range(2))
        )
        == []
    )
    deliver_all(harness)
    assert len(receiver.ids) == len(set(receiver.ids)) == 40
    assert states(harness, created) == [("delivered", 1)] * 40


def test_fan_out_that_fails_before_its_commit_is_repeated(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver)
    harness.bind()
    feed_has_caught_up(harness.service)

    def die(tx: Any) -> None:
        assert stored_deliveries.fan_out(tx, created.webhook.id, lambda: str(uuid7()), limit=100) == (2, False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.database.write(die)
    assert states(harness, created) == []
    assert deliver_all(harness).delivered == 2


@pytest.mark.postgres
def test_fan_out_of_another_replica_is_not_repeated(postgres_url: str, clock: Clock, receiver: Receiver) -> None:
    service = service_at(postgres_url, clock, "http://127.0.0.1:1")
    hooks, database = service.webhooks, service.runtime.database
    webhook_id = hooks.add(url=receiver.url).webhook.id
    database.write(lambda tx: reserve.reserve(tx, str(uuid7()), request(C, D), TERMS, CALLER))
    feed_has_caught_up(service)
    with _held_open(database, lambda tx: stored_deliveries.fan_out(tx, webhook_id, lambda: str(uuid7()), limit=9)):
        assert deliveries.fan_out(service, webhook_id) == (0, False)
    assert len(hooks.deliveries(webhook_id).data) == 1
    service.close()


def test_result_of_an_expired_lease_is_ignored(harness: ServiceHarness, receiver: Receiver) -> None:
    created = add_webhook(harness, receiver, "activated")
    harness.bind()
    feed_has_caught_up(harness.service)
    deliveries.fan_out(harness.service, created.webhook.id)
    slow = deliveries.lease(harness.service, created.webhook.id, limit=10)
    assert slow is not None
    assert deliveries.lease(harness.service, created.webhook.id, limit=10) is None, "it is leased"
    harness.clock.advance(61)
    quick = deliveries.lease(harness.service, created.webhook.id, limit=10)
    assert quick is not None
    late = Result(delivery=slow.deliveries[0], status=500, error="late", retry_s=None)
    deliveries.record(harness.service, [late])
    assert states(harness, created) == [("pending", 2)]
    deliveries.record(
        harness.service, [Result(delivery=quick.deliveries[0], status=200, error=None, retry_s=None)]
    )
    deliveries.record(harness.service, [late])
    assert states(harness, created) == [("delivered", 2)]


@pytest.mark.processes
def test_delivery_of_a_killed_sender_is_sent_by_another(
    service: BindingService, database_url: str, receiver: Receiver
) -> None:
    feed_has_caught_up(service)
    created = service.webhooks.add(url=receiver.url, kinds=["requested"])
    service.bind(phone_a=A, phone_b=B, pool_number="918806", expire_s=60, mode="AXB")
    feed_has_caught_up(service)
    receiver.answers = receiver.hangs
    sender = subprocess.Popen(
        [sys.executable, "-m", "tests.web.sender", "1.0"],
        cwd=ROOT,
        env=os.environ | {"BINDINGS_DATABASE_URL": database_url},
    )
    try:
        assert receiver.arrived.wait(300)
    finally:
        sender.send_signal(signal.SIGKILL)
        sender.wait(300)
    receiver.answers = lambda _: Reply()
    wait_for(lambda: deliver_pending(service.runtime).delivered == 1)
    assert len(receiver.ids) == 2
    assert len({(message.id, message.body) for message in receiver.messages}) == 1
    [delivery] = service.webhooks.deliveries(created.webhook.id).data
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


@pytest.mark.postgres
def test_event_that_commits_late_is_delivered(
    postgres_url: str, harness: ServiceHarness, receiver: Receiver
) -> None:
    service = service_at(postgres_url, harness.clock, "http://127.0.0.1:1")
    database = service.runtime.database
    feed_has_caught_up(service)
    service.webhooks.add(url=receiver.url)
    with _held_open(database, lambda tx: reserve.reserve(tx, str(uuid7()), request(C, D), TERMS, CALLER)):
        database.write(lambda tx: reserve.reserve(tx, str(uuid7()), request(E, F), TERMS, CALLER))
        assert deliver_pending(service.runtime) == DeliverResult(), "nothing past the one that is running"
    feed_has_caught_up(service)
    assert deliver_pending(service.runtime).delivered == 2
    service.close()


# Receivers do not delay each other.


def test_hanging_receiver_does_not_delay_another(
    harness: ServiceHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "ATTEMPT_TIMEOUT_S", 60.0)
    with Receiver() as hanging, WebhookSender(harness.service.runtime) as sender:
        hanging.answers = hanging.hangs
        add_webhook(harness, hanging)
        add_webhook(harness, receiver)
        harness.bind()
        feed_has_caught_up(harness.service)
        wait_for(lambda: sender.run() is not None and len(receiver.ids) == 2)
        assert hanging.arrived.wait(300)
        harness.bind(C, D)
        feed_has_caught_up(harness.service)
        wait_for(lambda: sender.run() is not None and len(receiver.ids) == 4)
        assert (len(hanging.ids), hanging.answered) == (2, 0), "and it is sent nothing more meanwhile"
        hanging.released.set()
        wait_for(lambda: sender.run() is not None and len(hanging.ids) == 4)


def test_failing_receiver_is_not_called_for_a_moment(harness: ServiceHarness, receiver: Receiver) -> None:
    receiver.answers = lambda _: Reply(status=500)
    created = add_webhook(harness, receiver)
    with WebhookSender(harness.service.runtime) as sender:
        for a, b in ((A, B), (C, D), (E, F)):
            harness.bind(a, b)
        feed_has_caught_up(harness.service)
        assert sender.run(wait_s=None).failed == sending.REQUESTS_PER_WEBHOOK
        assert sender.run(wait_s=None) == DeliverResult()
    assert states(harness, created)[4:] == [("pending", 0)] * 2


@pytest.mark.parametrize("status", [429, 503])
def test_overloaded_receiver_gets_nothing_for_the_time_that_it_names(
    harness: ServiceHarness, receiver: Receiver, status: int
) -> None:
    """Every message would cost an attempt otherwise, and the receiver more requests than it can take."""
    add_webhook(harness, receiver, "activated")
    receiver.answers = lambda _: Reply(status=status, headers={"Retry-After": "86400"})
    harness.bind(A, B)
    feed_has_caught_up(harness.service)
    with WebhookSender(harness.service.runtime) as sender:
        sender.run(wait_s=None)
        [(_, until)] = sender._backoff_until.items()
        rest_s = until - time.monotonic()
        assert sending.LONGEST_BACKOFF_S - 60 < rest_s <= sending.LONGEST_BACKOFF_S
        harness.bind(C, D)
        feed_has_caught_up(harness.service)
        assert sender.run(wait_s=None) == DeliverResult()
    assert len(receiver.messages) == 1


def test_partly_failing_receiver_gets_the_remaining_events_next_time(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    refused = iter([500])
    receiver.answers = lambda _: Reply(status=next(refused, 204))
    add_webhook(harness, receiver)
    with WebhookSender(harness.service.runtime) as sender:
        for a, b in ((A, B), (C, D), (E, F)):
            harness.bind(a, b)
        feed_has_caught_up(harness.service)
        first = sender.run(wait_s=None)
        assert (first.delivered, first.failed) == (sending.REQUESTS_PER_WEBHOOK - 1, 1)
        assert sender.run(wait_s=None).delivered == 2


def test_stopped_sender_releases_unsent_deliveries(harness: ServiceHarness, receiver: Receiver) -> None:
    receiver.answers = receiver.hangs
    created = add_webhook(harness, receiver)
    for a, b in ((A, B), (C, D), (E, F)):
        harness.bind(a, b)
    feed_has_caught_up(harness.service)
    sender = WebhookSender(harness.service.runtime)
    sender.run(wait_s=0)
    wait_for(lambda: len(receiver.ids) == sending.REQUESTS_PER_WEBHOOK)
    sender._stopping.set()
    receiver.released.set()
    sender.stop()
    assert states(harness, created) == [("delivered", 1)] * 4 + [("pending", 0)] * 2
    assert sender.run() == DeliverResult(delivered=4, fanned_out=6, finished=False)


def test_scheduler_of_a_host_process_sends_and_finishes_deliveries_in_flight(
    harness: ServiceHarness, receiver: Receiver
) -> None:
    add_webhook(harness, receiver, "activated")
    with Scheduler(harness.service) as scheduler:
        assert "deliver" in scheduler.ages_s()
        harness.bind()
        wait_for(lambda: len(receiver.ids) == 1)
    [hook] = harness.service.webhooks.list()
    [delivery] = harness.service.webhooks.deliveries(hook.id).data
    assert delivery.state == "delivered"


def test_scheduler_without_the_signing_library_says_that_it_sends_nothing(
    harness: ServiceHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.scheduler.find_spec", lambda _: None)
    with Scheduler(harness.service) as scheduler:
        assert "deliver" not in scheduler.ages_s()
    [message] = [text for text in caplog.messages if "sends no webhook deliveries" in text]
    assert "pip install 'pns-bindings[server]'" in message


def test_worker_exception_is_logged_by_type_only(
    harness: ServiceHarness, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_webhook(harness, receiver)
    harness.bind()

    def breaks(*_: object) -> None:
        raise RuntimeError("whsec_secret")

    monkeypatch.setattr(messages, "body_of", breaks)
    assert deliver_all(harness).delivered == 0
    assert any("RuntimeError" in line for line in caplog.messages)
    assert "whsec_secret" not in caplog.text


def test_body_of_an_event_has_the_same_bytes_every_time(harness: ServiceHarness) -> None:
    for event in harness.service.history(harness.bind().id):
        assert body_of(event) == body_of(event)
        assert isinstance(json.loads(body_of(event)), dict)
