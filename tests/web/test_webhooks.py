"""Webhooks: valid and invalid arguments, what is shown of them, and their deliveries."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings.domain.binding import EventKind
from bindings.errors import InvalidRequest, NotFound
from bindings.settings import Settings
from tests import deliveries
from tests.service.harness import A, B, C, Clock, D, E, F, ServiceHarness, feed_has_caught_up, service_at
from tests.store.test_plans import _recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.service import BindingService
    from bindings.webhooks.endpoints import Webhooks

URL = "https://example.com/events"
UNKNOWN_ID = "0198c0de-0000-7000-8000-000000000000"


def faults(call: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        call()
    return {fault.field: fault.message for fault in refused.value.field_errors}


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://example.com/", "http or https"),
        ("example.com/events", "http or https"),
        ("https:///events", "with a host"),
        ("https://[::1/", "with a host"),
        ("https://example.com:x/", "with a host"),
        ("https://example.com/a b", "with a host"),
        ("https://example.com/\n", "with a host"),
        ("https://user:pass-7f3a@example.com/", "user"),
        ("https://@example.com/", "user"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com/" + "x" * 2_048, "2048"),
        ("", "2048"),
        (None, "2048"),
    ],
)
def test_invalid_url_is_refused_without_repeating_it(harness: ServiceHarness, url: Any, part: str) -> None:
    messages = faults(lambda: harness.service.webhooks.add(url=url))
    assert list(messages) == ["url"]
    assert part in messages["url"]
    assert "7f3a" not in messages["url"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"),
        *("10.0.0.1", "192.168.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "0.0.0.0"),
    ],
)
def test_address_inside_is_refused_when_a_webhook_is_added(harness: ServiceHarness, host: str) -> None:
    service = harness.open(webhook_networks="none")
    messages = faults(lambda: service.webhooks.add(url=f"https://{host}:8443/x"))
    assert "BINDINGS_WEBHOOK_NETWORKS" in messages["url"]
    assert service.webhooks.list() == []
    harness.open(webhook_networks="0.0.0.0/0,::/0").webhooks.add(url=f"https://{host}:8443/x")
    assert len(service.webhooks.list()) == 1


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        *((host, True) for host in ("localhost", "127.0.0.1", "[::1]", "10.0.0.1", "172.31.0.9", "192.168.0.1")),
        *(
            (host, False)
            for host in ("169.254.169.254", "[fe80::1]", "0.0.0.0", "100.64.0.1", "[::ffff:169.254.169.254]")
        ),
    ],
)
def test_private_addresses_are_allowed_by_default_and_link_local_ones_are_not(
    harness: ServiceHarness, host: str, is_allowed: bool
) -> None:
    service = harness.open(webhook_networks=Settings().webhook_networks)
    if is_allowed:
        assert service.webhooks.add(url=f"https://{host}:8443/x").webhook.url
    else:
        assert list(faults(lambda: service.webhooks.add(url=f"https://{host}:8443/x"))) == ["url"]


@pytest.mark.parametrize("kinds", [["expired", "born"], [], "expired", 7])
def test_unknown_kinds_are_refused(harness: ServiceHarness, kinds: Any) -> None:
    assert list(faults(lambda: harness.service.webhooks.add(url="x", kinds=kinds))) == ["url", "kinds"]
    assert harness.service.webhooks.list() == []


@pytest.mark.parametrize(
    "url", [URL, "http://localhost:8080", "https://[::1]:8443/a?b=c", "https://bücher.example/"]
)
def test_valid_url_is_accepted(harness: ServiceHarness, url: str) -> None:
    created = harness.service.webhooks.add(url=url, kinds=["expired", "unbound", "expired"])
    assert (created.webhook.url, created.webhook.kinds) == (url, (EventKind.EXPIRED, EventKind.UNBOUND))
    assert (created.webhook.created_by, created.webhook.created_at) == ("test", harness.clock.at)
    assert (
        harness.service.webhooks.list() == [created.webhook] == [harness.service.webhooks.get(created.webhook.id)]
    )


def test_secret_is_32_random_bytes_and_shown_once(harness: ServiceHarness) -> None:
    hooks = harness.service.webhooks
    first, second = hooks.add(url=URL), hooks.add(url=URL)
    third = hooks.rotate(first.webhook.id)
    secrets = {created.secret for created in (first, second, third)}
    assert len(secrets) == 3
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        assert secret not in repr(
            [first, second, third, hooks.list(), deliveries.target(harness.service, first.webhook.id)]
        )


def test_disable_and_enable_are_safe_to_repeat_and_record_the_actor(harness: ServiceHarness) -> None:
    hooks = harness.service.as_caller(actor="key:ops").webhooks
    created = hooks.add(url=URL)
    at = harness.clock.at
    first = hooks.disable(created.webhook.id)
    harness.clock.advance(60)
    assert hooks.disable(created.webhook.id) == first
    assert (first.disabled_at, first.disabled_why) == (at, "by key:ops")
    assert hooks.enable(created.webhook.id) == hooks.enable(created.webhook.id) == created.webhook


CALLS: dict[str, Callable[[Webhooks, str], object]] = {
    "get": lambda hooks, identifier: hooks.get(identifier),
    "disable": lambda hooks, identifier: hooks.disable(identifier),
    "enable": lambda hooks, identifier: hooks.enable(identifier),
    "rotate": lambda hooks, identifier: hooks.rotate(identifier),
    "remove": lambda hooks, identifier: hooks.remove(identifier),
    "deliveries": lambda hooks, identifier: hooks.deliveries(identifier),
    "redeliver": lambda hooks, identifier: hooks.redeliver(identifier),
    "redeliver_dead": lambda hooks, identifier: hooks.redeliver_dead(identifier),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("unknown", [UNKNOWN_ID, "no uuid"])
def test_unknown_id_is_not_found(harness: ServiceHarness, name: str, unknown: str) -> None:
    with pytest.raises(NotFound, match=r"there is no such (webhook|delivery)"):
        CALLS[name](harness.service.webhooks, unknown)


def _fanned_out(harness: ServiceHarness, *kinds: str) -> str:
    feed_has_caught_up(harness.service)
    webhook_id = harness.service.webhooks.add(url=URL, kinds=kinds or None).webhook.id
    for a, b in ((A, B), (C, D), (E, F)):
        harness.bind(a, b)
    feed_has_caught_up(harness.service)
    deliveries.fan_out(harness.service, webhook_id)
    return webhook_id


def test_deliveries_are_paged_newest_event_first(harness: ServiceHarness) -> None:
    webhook_id, hooks = _fanned_out(harness), harness.service.webhooks
    whole = hooks.deliveries(webhook_id)
    assert (len(whole.data), whole.next_cursor) == (6, None)
    positions = [int(delivery.event.cursor.partition("-")[2]) for delivery in whole.data]
    assert positions == sorted(positions, reverse=True)
    first = hooks.deliveries(webhook_id, limit=4)
    second = hooks.deliveries(webhook_id, limit=4, cursor=first.next_cursor)
    assert (first.data + second.data, second.next_cursor) == (whole.data, None)
    assert hooks.deliveries(webhook_id, state="dead").data == ()
    assert hooks.deliveries(webhook_id, state="pending") == whole


def test_invalid_arguments_of_a_list_of_deliveries_are_all_listed(harness: ServiceHarness) -> None:
    call = lambda: harness.service.webhooks.deliveries(UNKNOWN_ID, state="lost", cursor="x", limit=0)  # noqa: E731
    assert list(faults(call)) == ["state", "cursor", "limit"]


def test_removing_a_webhook_deletes_its_deliveries(harness: ServiceHarness) -> None:
    webhook_id, hooks = _fanned_out(harness), harness.service.webhooks
    delivery_id = hooks.deliveries(webhook_id).data[0].id
    hooks.remove(webhook_id)
    assert (hooks.list(), deliveries.with_work(harness.service)) == ([], [])
    with pytest.raises(NotFound):
        hooks.redeliver(delivery_id)


def test_repeated_fan_out_creates_no_duplicates(harness: ServiceHarness) -> None:
    webhook_id = _fanned_out(harness, "activated")
    assert deliveries.fan_out(harness.service, webhook_id) == (0, False)
    back = text("UPDATE webhooks SET tx = 0, position = 0")  # as a restore from a backup would
    harness.database.write(lambda tx: tx.connection.execute(back))
    deliveries.fan_out(harness.service, webhook_id)
    assert len(harness.service.webhooks.deliveries(webhook_id).data) == 3


def test_fan_out_without_new_events_has_no_work(harness: ServiceHarness) -> None:
    webhook_id, hooks = _fanned_out(harness), harness.service.webhooks
    assert deliveries.with_work(harness.service) == [webhook_id], "something is due"
    assert deliveries.lease(harness.service, webhook_id, limit=100) is not None
    assert deliveries.with_work(harness.service) == []
    harness.clock.advance(61)
    assert deliveries.with_work(harness.service) == [webhook_id], "the lease is over"
    hooks.disable(webhook_id)
    assert deliveries.with_work(harness.service) == []
    assert deliveries.lease(harness.service, webhook_id, limit=100) is None


MANY = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    " INSERT INTO events (tx, sequence, kind, at, actor, detail)"
    " SELECT 0, 0, 'held', '2026-01-01T00:00:00.000000Z', 'x', '{}' FROM n",
    "postgresql": "INSERT INTO events (tx, sequence, kind, at, actor, detail)"
    " SELECT 0, 0, 'held', now(), 'x', '{}' FROM generate_series(1, 5000)",
}


def test_feed_query_starts_at_its_position_by_index(
    own_database_url: str, database_kind: str, clock: Clock
) -> None:
    service = service_at(own_database_url, clock, "http://127.0.0.1:1")
    service.runtime.database.write(lambda tx: tx.connection.execute(text(MANY[database_kind])))
    service.webhooks.add(url=URL)
    for call in (lambda: deliveries.with_work(service), lambda: service.events(after="0-1")):
        plan = _plan(service, call)
        if database_kind == "sqlite":
            assert "position>?" in plan or "rowid>?" in plan
        else:
            assert "Seq Scan on events" not in plan
            assert "ROW(tx" in plan
    service.close()


def _plan(service: BindingService, call: Callable[[], object]) -> str:
    with _recorded(service) as caught:
        call()
    [(statement, values)] = [query for query in caught if "FROM events" in query[0] or "FROM webhooks" in query[0]]
    explain = "EXPLAIN " if service.runtime.database.postgres else "EXPLAIN QUERY PLAN "
    with service.runtime.database._engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + statement, values).all()
    return json.dumps([str(row[-1]) for row in rows])
