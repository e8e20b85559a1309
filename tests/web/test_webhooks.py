"""Receivers: what may be added, what is shown of them, and what becomes of them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings.domain.binding import EventKind
from bindings.errors import InvalidRequest, NotFound
from tests import deliveries
from tests.service.harness import A, B, C, Clock, D, E, F, World, feed_has_caught_up, service_at
from tests.store.test_plans import _recorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.service import BindingService
    from bindings.webhooks.endpoints import Webhooks

URL = "https://example.com/events"
NOBODY = "0198c0de-0000-7000-8000-000000000000"


def faults(call: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        call()
    return {fault.field: fault.message for fault in refused.value.field_errors}


@pytest.mark.parametrize(
    ("url", "why"),
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
def test_an_address_that_cannot_be_sent_to_is_refused_and_not_repeated(world: World, url: Any, why: str) -> None:
    told = faults(lambda: world.service.webhooks.add(url=url))
    assert list(told) == ["url"]
    assert why in told["url"]
    assert "7f3a" not in told["url"]


@pytest.mark.parametrize("kinds", [["expired", "born"], [], "expired", 7])
def test_kinds_that_there_are_not_are_refused(world: World, kinds: Any) -> None:
    assert list(faults(lambda: world.service.webhooks.add(url="x", kinds=kinds))) == ["url", "kinds"]
    assert world.service.webhooks.list() == []


@pytest.mark.parametrize(
    "url", [URL, "http://localhost:8080", "https://[::1]:8443/a?b=c", "https://bücher.example/"]
)
def test_an_address_that_can_be_sent_to_is_taken(world: World, url: str) -> None:
    made = world.service.webhooks.add(url=url, kinds=["expired", "unbound", "expired"])
    assert (made.webhook.url, made.webhook.kinds) == (url, (EventKind.EXPIRED, EventKind.UNBOUND))
    assert (made.webhook.created_by, made.webhook.created_at) == ("test", world.clock.at)
    assert world.service.webhooks.list() == [made.webhook] == [world.service.webhooks.get(made.webhook.id)]


def test_every_secret_is_32_random_bytes_and_shown_once(world: World) -> None:
    hooks = world.service.webhooks
    first, second = hooks.add(url=URL), hooks.add(url=URL)
    third = hooks.rotate(first.webhook.id)
    secrets = {made.secret for made in (first, second, third)}
    assert len(secrets) == 3
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        assert secret not in repr(
            [first, second, third, hooks.list(), deliveries.target(world.service, first.webhook.id)]
        )


def test_disabling_and_enabling_are_safe_to_repeat_and_say_who(world: World) -> None:
    hooks = world.service.as_caller(actor="key:ops").webhooks
    made = hooks.add(url=URL)
    at = world.clock.at
    first = hooks.disable(made.webhook.id)
    world.clock.advance(60)
    assert hooks.disable(made.webhook.id) == first
    assert (first.disabled_at, first.disabled_why) == (at, "by key:ops")
    assert hooks.enable(made.webhook.id) == hooks.enable(made.webhook.id) == made.webhook


CALLS: dict[str, Callable[[Webhooks, str], object]] = {
    "get": lambda hooks, found: hooks.get(found),
    "disable": lambda hooks, found: hooks.disable(found),
    "enable": lambda hooks, found: hooks.enable(found),
    "rotate": lambda hooks, found: hooks.rotate(found),
    "remove": lambda hooks, found: hooks.remove(found),
    "deliveries": lambda hooks, found: hooks.deliveries(found),
    "redeliver": lambda hooks, found: hooks.redeliver(found),
    "redeliver_dead": lambda hooks, found: hooks.redeliver_dead(found),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("unknown", [NOBODY, "no uuid"])
def test_an_id_that_there_is_not_is_not_found_and_says_of_what(world: World, name: str, unknown: str) -> None:
    with pytest.raises(NotFound, match=r"there is no such (webhook|delivery)"):
        CALLS[name](world.service.webhooks, unknown)


def _fanned_out(world: World, *kinds: str) -> str:
    feed_has_caught_up(world.service)
    found_id = world.service.webhooks.add(url=URL, kinds=kinds or None).webhook.id
    for a, b in ((A, B), (C, D), (E, F)):
        world.bind(a, b)
    feed_has_caught_up(world.service)
    deliveries.fan_out(world.service, found_id)
    return found_id


def test_deliveries_are_listed_by_page_the_newest_event_first(world: World) -> None:
    found_id, hooks = _fanned_out(world), world.service.webhooks
    whole = hooks.deliveries(found_id)
    assert (len(whole.data), whole.next_cursor) == (6, None)
    positions = [int(each.event.cursor.partition("-")[2]) for each in whole.data]
    assert positions == sorted(positions, reverse=True)
    first = hooks.deliveries(found_id, limit=4)
    second = hooks.deliveries(found_id, limit=4, cursor=first.next_cursor)
    assert (first.data + second.data, second.next_cursor) == (whole.data, None)
    assert hooks.deliveries(found_id, state="dead").data == ()
    assert hooks.deliveries(found_id, state="pending") == whole


def test_wrong_arguments_of_a_list_of_deliveries_are_all_named(world: World) -> None:
    call = lambda: world.service.webhooks.deliveries(NOBODY, state="lost", cursor="x", limit=0)  # noqa: E731
    assert list(faults(call)) == ["state", "cursor", "limit"]


def test_removing_forgets_the_deliveries_too(world: World) -> None:
    found_id, hooks = _fanned_out(world), world.service.webhooks
    delivery_id = hooks.deliveries(found_id).data[0].id
    hooks.remove(found_id)
    assert (hooks.list(), deliveries.with_work(world.service)) == ([], [])
    with pytest.raises(NotFound):
        hooks.redeliver(delivery_id)


def test_fanning_out_twice_makes_nothing_twice(world: World) -> None:
    found_id = _fanned_out(world, "activated")
    assert deliveries.fan_out(world.service, found_id) == (0, False)
    back = text("UPDATE webhooks SET tx = 0, position = 0")  # as a restore from a backup would
    world.database.write(lambda tx: tx.connection.execute(back))
    deliveries.fan_out(world.service, found_id)
    assert len(world.service.webhooks.deliveries(found_id).data) == 3


def test_a_quiet_database_is_no_work(world: World) -> None:
    found_id, hooks = _fanned_out(world), world.service.webhooks
    assert deliveries.with_work(world.service) == [found_id], "something is due"
    assert deliveries.lease(world.service, found_id, limit=100) is not None
    assert deliveries.with_work(world.service) == []
    world.clock.advance(61)
    assert deliveries.with_work(world.service) == [found_id], "the lease is over"
    hooks.disable(found_id)
    assert deliveries.with_work(world.service) == []
    assert deliveries.lease(world.service, found_id, limit=100) is None


MANY = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    " INSERT INTO events (tx, sequence, kind, at, actor, detail)"
    " SELECT 0, 0, 'held', '2026-01-01T00:00:00.000000Z', 'x', '{}' FROM n",
    "postgresql": "INSERT INTO events (tx, sequence, kind, at, actor, detail)"
    " SELECT 0, 0, 'held', now(), 'x', '{}' FROM generate_series(1, 5000)",
}


def test_the_feed_is_looked_up_at_its_place_and_not_read_from_its_beginning(
    own_database_url: str, database_kind: str, clock: Clock
) -> None:
    service = service_at(own_database_url, clock, "http://127.0.0.1:1")
    service.runtime.database.write(lambda tx: tx.connection.execute(text(MANY[database_kind])))
    service.webhooks.add(url=URL)
    for call in (lambda: deliveries.with_work(service), lambda: service.events(after="0-1")):
        told = _plan(service, call)
        if database_kind == "sqlite":
            assert "position>?" in told or "rowid>?" in told
        else:
            assert "Seq Scan on events" not in told
            assert "ROW(tx" in told
    service.close()


def _plan(service: BindingService, call: Callable[[], object]) -> str:
    with _recorded(service) as caught:
        call()
    [(statement, values)] = [one for one in caught if "FROM events" in one[0] or "FROM webhooks" in one[0]]
    explain = "EXPLAIN " if service.runtime.database.postgres else "EXPLAIN QUERY PLAN "
    with service.runtime.database._engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + statement, values).all()
    return json.dumps([str(row[-1]) for row in rows])
