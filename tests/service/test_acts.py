"""Administrative acts and exports are events: each one, with its facts, in the transaction of the change."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from sqlalchemy import select, text

from bindings.domain.acts import Act, describe
from bindings.domain.binding import Event, EventKind
from bindings.store import events
from bindings.store.account import register_scope
from bindings.store.deliveries import Result
from bindings.store.schema import account, exports, keys, webhooks
from bindings.store.sql import to_json_value
from tests.deliveries import fan_out, lease, record
from tests.service.harness import A, B, ServiceHarness, feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.service import BindingService

KEY_ID = "0190b5a0-0000-7000-8000-0000000000aa"
URL = "https://hooks.example.org:8443/T0/secret-path?token=tok-7f3a"
ORIGIN = "https://hooks.example.org:8443"


def _events(harness: ServiceHarness, kind: EventKind) -> list[Event]:
    return [event for event in harness.service.export_events() if event.kind is kind]


def _acts(harness: ServiceHarness) -> list[str]:
    return [str(event.detail["act"]) for event in _events(harness, EventKind.ADMINISTERED)]


def _admin(harness: ServiceHarness) -> BindingService:
    register_scope(harness.database, "default")
    return harness.service.as_caller(actor="key:ann", request_id="req-1", key_id=KEY_ID)


def _row(harness: ServiceHarness, table: Any) -> dict[str, Any]:
    rows = harness.database.read(lambda connection: connection.execute(select(table)).mappings().all())
    return {name: to_json_value(value) for name, value in rows[-1].items()}


def _add(service: BindingService) -> str:
    return service.webhooks.add(url=URL, kinds=["unbound"]).webhook.id


def _dead_delivery(harness: ServiceHarness, service: BindingService) -> tuple[str, str]:
    webhook_id = service.webhooks.add(url=URL, kinds=["activated"]).webhook.id
    harness.bind(A, B)
    feed_has_caught_up(service)
    fan_out(service, webhook_id)
    batch = lease(service, webhook_id, limit=10)
    assert batch is not None
    record(service, [Result(delivery=one, status=500, error="500", retry_s=None) for one in batch.deliveries])
    return webhook_id, batch.deliveries[0].id


def _create_key(_harness: ServiceHarness, service: BindingService) -> None:
    service.api_keys.create(name="eve", role="auditor", rate_limit=7, expires_at="2030-01-01T00:00:00Z")


def _revoke_key(harness: ServiceHarness, service: BindingService) -> None:
    _create_key(harness, service)
    service.api_keys.revoke(service.api_keys.list()[0].id)


def _end_session(harness: ServiceHarness, service: BindingService) -> None:
    _create_key(harness, service)
    service.sessions.create(service.api_keys.list()[0].id)
    service.sessions.end_by_id(service.sessions.list()[0].id)


def _redeliver(harness: ServiceHarness, service: BindingService) -> None:
    service.webhooks.redeliver(_dead_delivery(harness, service)[1])


def _disable_and_enable(_harness: ServiceHarness, service: BindingService) -> None:
    webhook_id = _add(service)
    service.webhooks.disable(webhook_id)
    service.webhooks.enable(webhook_id)


def _waive(_harness: ServiceHarness, service: BindingService) -> None:
    service.mark_restored()
    service.mark_restored(waive=True)


def _scan(_harness: ServiceHarness, service: BindingService) -> None:
    service.mark_restored()
    _harness.clock.advance(1)
    service.reconcile()


WAYS: dict[Act, Callable[[ServiceHarness, BindingService], object]] = {
    Act.KEY_CREATED: _create_key,
    Act.KEY_REVOKED: _revoke_key,
    Act.SESSION_ENDED: _end_session,
    Act.WEBHOOK_ADDED: lambda _, service: _add(service),
    Act.WEBHOOK_ROTATED: lambda _, service: service.webhooks.rotate(_add(service)),
    Act.WEBHOOK_DISABLED: _disable_and_enable,
    Act.WEBHOOK_ENABLED: _disable_and_enable,
    Act.WEBHOOK_REDELIVERED: _redeliver,
    Act.WEBHOOK_REMOVED: lambda _, service: service.webhooks.remove(_add(service)),
    Act.DATABASE_RESTORED: lambda _, service: service.mark_restored(),
    Act.DATABASE_SCANNED: _scan,
    Act.DATABASE_SCAN_WAIVED: _waive,
}


def test_every_act_is_tested() -> None:
    elsewhere = {Act.DATABASE_MOVED, Act.RETENTION_APPLIED}  # test_cluster_move, test_retention
    elsewhere |= {Act.PHONES_KEYS_CHANGED, Act.PHONES_SEALED}  # test_phone_sealing
    elsewhere |= {Act.SESSION_BEGAN}  # test_sessions
    elsewhere |= {Act.SCHEMA_DOWNGRADED}  # test_downgrade
    assert set(WAYS) | elsewhere == set(Act)


@pytest.mark.parametrize("act", WAYS)
def test_act_leaves_one_event_with_caller_and_key_and_no_secret(harness: ServiceHarness, act: Act) -> None:
    WAYS[act](harness, _admin(harness))
    feed_has_caught_up(harness.service)
    [event] = [event for event in _events(harness, EventKind.ADMINISTERED) if event.detail["act"] == act]
    assert (event.actor, event.request_id, event.key_id) == ("key:ann", "req-1", KEY_ID)
    assert (event.binding_id, event.sequence) == (None, 0)
    [entry] = [entry for entry in harness.service.access_log.entries().data if entry.act == act]
    assert (entry.actor, entry.key_id, entry.description) == (event.actor, KEY_ID, describe(event.detail))
    recorded = str([event.detail for event in harness.service.export_events()])
    for secret in ("whsec_", "bnd_" + "x" * 20, "tok-7f3a", "secret-path", A, B):
        assert secret not in recorded


@pytest.mark.parametrize("act", WAYS)
def test_failed_act_leaves_no_event_and_no_change(harness: ServiceHarness, act: Act) -> None:
    def fail(tx: Any, kind: Act, *arguments: Any) -> None:
        append(tx, kind, *arguments)
        if kind is act:
            raise ZeroDivisionError

    append, service = events.append_act, _admin(harness)
    with mock.patch.object(events, "append_act", fail), pytest.raises(ZeroDivisionError):
        WAYS[act](harness, service)
    assert act not in _acts(harness)
    if act is Act.KEY_CREATED:
        assert service.api_keys.list() == []
    if act is Act.WEBHOOK_REMOVED:
        assert len(service.webhooks.list()) == 1


def test_sending_all_dead_deliveries_again_leaves_one_event_with_their_number(harness: ServiceHarness) -> None:
    service = _admin(harness)
    webhook_id, _ = _dead_delivery(harness, service)
    assert [service.webhooks.redeliver_dead(webhook_id) for _ in range(2)] == [1, 0]
    details = [event.detail for event in _events(harness, EventKind.ADMINISTERED)]
    [redelivered] = [detail for detail in details if detail["act"] == Act.WEBHOOK_REDELIVERED]
    assert redelivered == {"act": Act.WEBHOOK_REDELIVERED, "id": webhook_id, "deliveries": 1}


def test_repeated_act_without_effect_leaves_no_second_event(harness: ServiceHarness) -> None:
    service = _admin(harness)
    for act in (Act.KEY_REVOKED, Act.WEBHOOK_DISABLED, Act.DATABASE_SCAN_WAIVED):
        WAYS[act](harness, service)
    before = _acts(harness)
    service.api_keys.revoke(service.api_keys.list()[0].id)
    service.webhooks.enable(service.webhooks.list()[0].id)
    service.mark_restored(waive=True)
    assert _acts(harness) == before


def test_rows_of_keys_and_webhooks_can_be_compared_with_their_events(harness: ServiceHarness) -> None:
    service = _admin(harness)
    _create_key(harness, service)
    webhook_id = _add(service)
    created, added = (event.detail for event in _events(harness, EventKind.ADMINISTERED))
    key, webhook = _row(harness, keys), _row(harness, webhooks)
    fixed = {"id", "name", "role", "prefix", "rate_limit", "created_at", "created_by", "expires_at"}
    hash_sha256 = hashlib.sha256(key["hash"].encode()).hexdigest()
    assert created == {"act": "key.created", "hash_sha256": hash_sha256} | {name: key[name] for name in fixed}
    assert set(key) - fixed == {"hash", "last_used_at", "revoked_at", "revoked_by"}
    assert added == {
        "act": "webhook.added",
        "id": webhook_id,
        "url": ORIGIN,
        "url_sha256": hashlib.sha256(URL.encode()).hexdigest(),
        **{name: webhook[name] for name in ("kinds", "created_at", "created_by")},
    }
    service.mark_restored()
    [restored] = [event.detail for event in _events(harness, EventKind.ADMINISTERED)][2:]
    assert restored["scan_owed_since"] == _row(harness, account)["scan_owed_since"]
    assert restored["cause"] == "stated"


def test_receiver_that_is_gone_is_disabled_with_an_event(harness: ServiceHarness) -> None:
    webhook_id = harness.service.webhooks.add(url=URL, kinds=["activated"]).webhook.id
    harness.bind(A, B)
    feed_has_caught_up(harness.service)
    fan_out(harness.service, webhook_id)
    batch = lease(harness.service, webhook_id, limit=1)
    assert batch is not None
    record(harness.service, [Result(delivery=batch.deliveries[0], status=410, error="410", retry_s=None)])
    detail = _events(harness, EventKind.ADMINISTERED)[-1].detail
    assert (detail["act"], detail["disabled_why"]) == ("webhook.disabled", "the receiver answered 410")


def test_export_is_an_event_at_its_start_and_at_its_end(harness: ServiceHarness) -> None:
    log = _admin(harness).access_log
    export_id = log.start_export(view="bindings", filters={"from": None}, format="csv", reason="case 7")
    for _ in range(2):
        log.finish_export(export_id, row_count=3, sha256="a" * 64)
    start, end = _events(harness, EventKind.EXPORTED)
    row = _row(harness, exports)
    for event in (start, end):
        assert (event.actor, event.key_id, event.detail["export_id"]) == (row["actor"], KEY_ID, export_id)
    assert row["key_id"] == KEY_ID
    recorded = {name: value for name, value in (start.detail | end.detail).items() if name != "export_id"}
    assert recorded == {name: row[name] for name in recorded}
    assert set(row) - set(recorded) == {"id", "actor", "request_id", "key_id"}
    assert [entry.key_id for entry in log.entries().data] == [KEY_ID]


def test_two_keys_of_one_name_are_told_apart_in_every_event(harness: ServiceHarness) -> None:
    other_id = KEY_ID.replace("aa", "bb")
    first = harness.service.as_caller(actor="key:ann", key_id=KEY_ID)
    second = harness.service.as_caller(actor="key:ann", key_id=other_id)
    binding = first.bind(phone_a=A, phone_b=B, mode="AXB", pool_number="918806", expire_s=3600)
    second.reveal([binding.id], reason="case 7")
    second.unbind(binding.id, reason="over")
    by_kind = {event.kind: event.key_id for event in harness.service.history(binding.id)}
    assert (by_kind[EventKind.REQUESTED], by_kind[EventKind.ACTIVATED]) == (KEY_ID, KEY_ID)
    assert {by_kind[kind] for kind in (EventKind.REVEALED, EventKind.UNBIND_REQUESTED)} == {other_id}


def test_older_code_writes_and_reads_events_beside(harness: ServiceHarness) -> None:
    """Code of schema 0018 names its columns: it writes no key, and reads events that have one."""
    older = (
        "INSERT INTO events (tx, sequence, kind, at, actor, detail) SELECT tx, 0, 'held', at, 'older', '{}' FROM"
    )
    _create_key(harness, _admin(harness))
    harness.database.write(lambda tx: tx.connection.execute(text(f"{older} events")))
    columns = "tx, position, binding_id, sequence, kind, at, actor, request_id, detail"
    rows = harness.database.read(
        lambda connection: connection.execute(text(f"SELECT {columns} FROM events ORDER BY position")).all()
    )
    assert [row.kind for row in rows] == ["administered", "held"]
    assert [event.key_id for event in harness.service.export_events()] == [KEY_ID, None]
